"""Figures drawn from the results of real, small jobs."""

import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from core import figures
from core.errors import UnknownFigure
from core.figures import JobData, Row
from core.figures.canvas import _apart, blank, from_zero, plain_log
from core.figures.data import layer_of
from core.figures.valley import valley as in_numpy
from core.hyperparameters import Group, layouts_of
from core.learning import Learner
from core.problems.toy import valley as in_jax
from core.shapes import groups_for
from core.spec import JobSpec
from tests.core.test_problems import classifier, multitask, omniglot, toy  # noqa: F401 - a fixture

SCHEDULES = {"step_size": {"learn": True, "per": ["step", "group"], "initial": 0.3}, "momentum": {"initial": 0.5}}


def results_of(document):
    """What the store would hold of the job once it has ended."""
    spec = JobSpec.model_validate(document)
    learner = Learner.from_spec(spec)
    trials = list(learner.search([]))
    records = list(learner.run(start=learner.start(trials)))
    last = records[-1].checkpoint
    values = {record.iteration: record.values for record in records} | {last.iteration: last.values}
    return JobData(
        spec=spec,
        groups=learner.groups,
        layouts=learner.layouts,
        rows=tuple(
            Row(one.iteration, *one.losses, one.certificate, json.loads(json.dumps(one.diagnostics or {})))
            for one in records
        ),
        values=values,
        best=last.iteration,
        measured=learner.arrays(last, last.values),
        trials=tuple(trials),
    )


def of_kind(kind, **parts):
    document = classifier({}) | {"kind": kind} | parts
    document["hyperparameters"] = SCHEDULES | parts.get("hyperparameters", {})
    return document


JOBS = {
    "schedules": (
        of_kind(
            "learn",
            meta={
                "num_iterations": 2,
                "evaluation_seeds": 1,
                "warm_start": {"trials": 3, "search": {"step_size": {"low": 0.1, "high": 1.0}}},
            },
            hyperparameters={"init_scale": {"learn": True, "per": ["group"]}},
            diagnostics={"every": 1, "adjoint_growth": True},
        ),
        {"losses", "learning_curves", "schedules", "init_scales", "search", "adjoint_growth"},
    ),
    "penalties": (
        classifier({"l2": {"learn": True, "per": ["weight"], "initial": 0.01}}),
        {"losses", "learning_curves", "penalties"},
    ),
    "inputs": (
        classifier({"inputs": {"learn": True}, "labels": {"learn": True}}, synthetic_examples=20),
        {"losses", "learning_curves", "inputs", "labels"},
    ),
    "example weights": (
        classifier({"example_weights": {"learn": True}}),
        {"losses", "learning_curves", "example_weights"},
    ),
    "augmentation": (
        classifier({"augmentation": {"learn": True}, "initial_weights": {"learn": True}}),
        {"losses", "learning_curves", "augmentation", "initial_weights"},
    ),
    "task mixing": (multitask({"task_mixing": {"learn": True}}), {"losses", "learning_curves", "task_mixing"}),
    "toy": (toy(), {"losses", "learning_curves", "schedules", "path"}),
    "hypergradient": (
        of_kind("hypergradient", seeds={"count": 3}, diagnostics={"every": 1, "naive_reversal": True}),
        {"hypergradients", "naive_reversal"},
    ),
    "scan": (
        of_kind("scan", scan={"hyperparameter": "step_size", "values": [0.1, 1e12, 0.3]}),
        {"scan"},
    ),
    "memory": (
        of_kind(
            "scan",
            hyperparameters={"momentum": {"learn": True, "initial": 0.5}},
            scan={"hyperparameter": "momentum", "values": [0.5, 0.9]},
        ),
        {"scan", "stored_bits"},
    ),
}


FAST = {"toy"}


@pytest.mark.parametrize(
    ("document", "expected"),
    [pytest.param(*job, id=name, marks=[] if name in FAST else [pytest.mark.slow]) for name, job in JOBS.items()],
)
def test_a_job_has_the_figures_of_what_it_did(document, expected, omniglot):  # noqa: F811
    data = results_of(document)
    assert set(figures.names(data)) == expected
    for name in expected:
        picture = Image.open(BytesIO(figures.draw(data, name, "png"))).convert("L")
        shades = np.asarray(picture)
        assert min(picture.size) > 200
        assert shades.std() > 5, f"{name} is blank"
        assert b"<svg" in figures.draw(data, name, "svg")


@pytest.mark.parametrize("model", [{"kind": "cnn"}, {"kind": "transformer", "tokens": "rows", "width": 8}])
def test_scales_of_convolutions_and_attention_are_drawn(model):
    learned = {"init_scale": {"learn": True, "per": ["group"]}}
    spec = JobSpec.model_validate(classifier(learned, model=model))
    groups = groups_for(spec)
    layouts = layouts_of(spec, groups)
    values = {number: {"init_scale": layouts["init_scale"].initial_values() + number} for number in range(3)}
    data = JobData(spec, groups, layouts, rows=(), values=values, best=2, measured={}, trials=())
    text = figures.draw(data, "init_scales", "svg").decode()
    first = layer_of(groups[0])
    assert all(f"<!-- {name} -->" in text for name in (first, "output"))
    assert "norm" not in text  # a scale of one input has no 1/√ to be compared with


def test_every_figure_is_drawn_by_some_job():
    assert set().union(*(expected for _, expected in JOBS.values())) == set(figures.FIGURES)


@pytest.mark.slow
def test_the_same_results_give_the_same_bytes():
    data = results_of(JOBS["example weights"][0])
    for form in ("png", "svg"):
        assert figures.draw(data, "losses", form) == figures.draw(data, "losses", form)


def test_a_figure_that_there_is_not_is_told_the_others():
    data = results_of(JOBS["example weights"][0])
    with pytest.raises(
        UnknownFigure, match="'schedules' of this job; there are: example_weights, learning_curves"
    ):
        figures.draw(data, "schedules", "png")


def test_the_valley_that_is_drawn_is_the_one_that_is_descended():
    x, y = np.meshgrid(np.linspace(-3, 5, 20), np.linspace(-3, 5, 20))
    expected = np.vectorize(lambda a, b: float(in_jax(np.array([a, b]))))(x, y)
    np.testing.assert_allclose(in_numpy(x, y), expected, rtol=1e-12)


def test_figures_have_titles():
    assert all(drawing.title.endswith(".") for drawing in figures.FIGURES.values())


@pytest.mark.parametrize("wanted", [[0.5, 0.5, 0.52], [0.0, 0.01, 0.9], [1.0, 0.97, 0.99], [0.2, 0.8], []])
def test_names_beside_curves_make_room_for_each_other(wanted):
    places = _apart(wanted, 0.1)
    assert sorted(range(len(wanted)), key=wanted.__getitem__) == sorted(range(len(places)), key=places.__getitem__)
    assert np.all(np.diff(sorted(places)) > 0.1 - 1e-9)
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    assert wanted != [0.2, 0.8] or places == pytest.approx(wanted)


def test_logarithmic_axes_are_numbered_plainly():
    _, axes = blank()
    axes[0, 0].plot([0, 1], [0.03, 0.2])
    axes[0, 0].set(yscale="log", ylim=(0.03, 0.25))
    plain_log(axes[0, 0].yaxis)
    axes[0, 0].figure.draw_without_rendering()
    texts = [tick.label1.get_text() for tick in axes[0, 0].yaxis.get_major_ticks()]
    assert {"0.05", "0.1", "0.2"} <= set(texts)


def test_curves_are_drawn_from_zero_unless_that_would_flatten_them():
    for values, expected in (([0.1, 1.0], True), ([395.0, 356.0], False), ([-1.0, 1.0], False)):
        _, axes = blank()
        axes[0, 0].plot(values)
        from_zero(axes[0, 0])
        assert (axes[0, 0].get_ylim()[0] == 0) == expected


def test_layers_are_called_by_their_groups():
    """Not by their place: keys of attention have no biases."""
    names = ("layer_1.weights", "layer_1.biases", "block_1.key.weights", "convolution_2.biases", "weights")
    found = [layer_of(Group(name, (1,))) for name in names]
    assert found == ["layer 1", "layer 1", "block 1.key", "convolution 2", "weights"]
