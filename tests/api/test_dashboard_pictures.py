"""What is learned, as numbers for pictures: the numbers themselves, on one scale, no more than a screen shows."""

import base64

import numpy as np
import pytest

from api.dashboard import sheets, views
from api.dashboard.thinning import spread
from core import presets
from core.hyperparameters import Group, groups_of, layouts_of
from core.spec import JobSpec
from core.store.models import Job
from tests.builders import document

FEATURES, CLASSES = 64, 10


def parts(spec, features=FEATURES, classes=CLASSES):
    groups = groups_of(spec.problem, features, classes)
    return groups, layouts_of(spec, groups)


def about(hyperparameters, **changes):
    changed = document({"hyperparameters": hyperparameters, "meta.num_iterations": 2, **changes})
    return JobSpec.model_validate(changed)


def cells(sheet):
    found = np.frombuffer(base64.b64decode(sheet["values"]), "<f4")
    return found.reshape(sheet["rows"], sheet["columns"])


def drawn(spec, name, natural, others=(), **sizes):
    groups, layouts = parts(spec, **sizes)
    spans = [sheets.spanned(spec, groups, layouts[name], other) for other in others]
    return sheets.drawn(spec, groups, layouts[name], natural, spans)


PENALTIES = {"l2": {"learn": True, "per": ["weight"], "initial": 0.01}}


def test_an_image_holds_the_values_of_its_unit():
    natural = np.random.default_rng(0).uniform(1e-4, 1, 650)
    found = drawn(about(PENALTIES), "l2", natural)
    weights = natural[:640].reshape(64, 10)
    assert [one["name"] for one in found["sheets"]] == [f"class {number}" for number in range(10)]
    for number, sheet in enumerate(found["sheets"]):
        assert np.array_equal(cells(sheet), weights[:, number].reshape(8, 8).astype(np.float32))
    assert (found["of"], found["reduced"], found["scale"]) == (10, [1, 1], "log")


def test_the_scale_is_one_for_all_times():
    """Else the same colour would be another number at each meta-iteration."""
    first, last = np.full(650, 0.5), np.linspace(0.2, 0.9, 650)
    each = [drawn(about(PENALTIES), "l2", one, (first, last)) for one in (first, last)]
    assert [(one["low"], one["high"]) for one in each] == [(pytest.approx(0.2), pytest.approx(last[639]))] * 2


def test_numbers_of_both_signs_have_zero_in_the_middle():
    spec = about({"initial_weights": {"learn": True}})
    found = drawn(spec, "initial_weights", np.linspace(-3, 1, 650))
    assert (found["low"], found["high"], found["scale"]) == (-3.0, 3.0, "signed")


def test_large_matrices_are_means_of_what_is_there():
    spec = about(PENALTIES)
    natural = np.random.default_rng(0).uniform(1, 2, 3001 * 10 + 10)
    found = drawn(spec, "l2", natural, features=3001)
    (sheet,) = found["sheets"]
    rows, columns = found["reduced"]
    assert sheet["rows"] * sheet["columns"] <= sheets._CELLS
    assert (rows > 1, columns) == (True, 1)
    weights = natural[:30010].reshape(3001, 10)
    assert cells(sheet)[0] == pytest.approx(weights[:rows].mean(axis=0), rel=1e-6)
    assert cells(sheet)[-1] == pytest.approx(weights[(sheet["rows"] - 1) * rows :].mean(axis=0), rel=1e-6)


def test_tasks_are_shown_by_how_they_correlate():
    spec = presets.get("multitask-weight-tying")
    groups, layouts = parts(spec, 784, 20)
    draw = np.random.default_rng(0)
    natural = draw.normal(size=layouts["task_mixing"].shape)
    natural[0] = np.eye(10)
    found = sheets.drawn(spec, groups, layouts["task_mixing"], natural, [])
    assert np.array_equal(cells(found["sheets"][0]), np.eye(10, dtype=np.float32))
    latent = draw.normal(size=(10, 1_000_000))
    assert np.allclose(cells(found["sheets"][1]), np.corrcoef(natural[1] @ latent), atol=0.01)
    assert found["sheets"][0]["row_names"][5] == "Balinese, turned"
    assert (found["low"], found["high"]) == (-1.0, 1.0)


def test_what_is_no_number_is_no_colour():
    natural = np.full(650, np.nan)
    found = drawn(about(PENALTIES), "l2", natural)
    assert np.isnan(cells(found["sheets"][0])).all()
    assert (found["low"], found["high"]) == (0.0, 1.0)


@pytest.mark.parametrize("name", presets.names())
def test_there_is_a_view_of_all_that_a_preset_learns(name):
    spec = presets.get(name)
    groups, layouts = parts(spec, 784, 20)
    job = Job(
        spec=spec.model_dump(mode="json"), groups=[{"name": one.name, "shape": list(one.shape)} for one in groups]
    )
    found = views.views(job)
    if spec.kind != "learn":
        assert found == []
        return
    assert [view.name for view in found] == [layout.name for layout in layouts.values() if layout.learn]
    for view in found:
        layout = layouts[view.name]
        natural = layout.start.values(layout.shape) if layout.size < 3e6 else np.ones(layout.shape)
        if view.kind == "sheets":
            assert sheets.drawn(spec, groups, layout, natural, [])["sheets"]
        elif view.kind == "trace":
            assert len(view.lines) == layout.size
        elif view.kind == "curves":
            shown = views._curves(natural, 100)
            assert len(shown["lines"]) == len(view.lines)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((), "trace"), ((5,), "trace"), ((500,), "curves"), ((5, 7), "sheets"), ((3, 5, 7), "sheets")],
)
def test_of_a_problem_of_ones_own_there_are_views_by_shape(shape, kind):
    problem = {"kind": "plugin", "name": "own", "version": "1", "shapes": {"h": list(shape)}}
    spec = JobSpec.model_validate({"problem": problem, "training": {"num_steps": 5}})
    group = Group("w", (3,))
    (view,) = views.views(Job(spec=spec.model_dump(mode="json"), groups=[{"name": "w", "shape": [3]}]))
    assert view.kind == kind
    if kind == "sheets":
        layout = layouts_of(spec, (group,))["h"]
        natural = np.arange(float(layout.size)).reshape(shape)
        found = sheets.drawn(spec, (group,), layout, natural, [])
        assert np.array_equal(np.concatenate([cells(one).ravel() for one in found["sheets"]]), natural.ravel())


def test_a_spread_has_both_ends_and_no_more_than_asked():
    assert spread(0, 5) == [0]
    assert spread(3, 10) == [0, 1, 2, 3]
    found = spread(10_000, 600)
    assert (found[0], found[-1], len(found)) == (0, 10_000, 600)
