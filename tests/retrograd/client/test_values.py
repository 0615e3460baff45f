"""What a job learned and how it went, as arrays and frames; all read from the real API."""

import json
import math
import sys
from uuid import UUID
from xml.etree import ElementTree

import numpy as np
import pytest

from core.store import leases
from tests.api.test_jobs import FOUND
from tests.builders import SMALL, claim, document, values


def with_values(client, sessions, changes, **arrays):
    """A job that begins at these unconstrained values."""
    job = client.jobs.create(document(changes))
    lease = claim(sessions, UUID(job.id))
    with sessions.begin() as session:
        leases.save_start(session, lease, values(0) | arrays, {"initial": FOUND}, {})
    return job.refresh()


def test_hyperparameters_are_arrays_by_name_in_natural_units(learned):
    found = learned.hyperparameters()
    assert dict(found).keys() == {"step_size", "momentum"}
    np.testing.assert_array_equal(found["step_size"], np.exp(values(1)["step_size"]))
    assert found["momentum"] == 1 / (1 + math.exp(-1 / 3))
    assert found["momentum"].shape == ()
    assert found.iteration == 1
    assert found.units["step_size"] == "weight per velocity"
    assert found.axes == {"step_size": ("step", "group"), "momentum": ()}
    assert found.transforms == {"step_size": "log", "momentum": "logit"}
    assert found.groups == {"layer_1.weights": (64, 10), "layer_1.biases": (10,)}
    assert found.losses["best"]["outer"] == 1.0
    assert found.certificate["exact"] is True
    np.testing.assert_array_equal(found.measured["learning_curve.best"], [0, 0.5, 1])
    assert learned.hyperparameters("last").iteration == 2
    assert "step_size 10 × 2" in repr(found)


def test_their_document_is_the_one_that_is_downloaded(learned, tmp_path):
    for iteration in ("best", 0):
        saved = json.loads(learned.download(tmp_path / "result.json", iteration).read_text())
        assert learned.hyperparameters(iteration).document == saved


def test_values_that_are_not_finite_stay_so_and_are_null_in_the_document(waiting, sessions, tmp_path):
    start = {"step_size": np.array([[1e6, 0.0]] * 10), "momentum": np.array(math.nan)}
    job = with_values(waiting, sessions, {}, **start)
    found = job.hyperparameters(0)
    assert np.isposinf(found["step_size"][:, 0]).all()
    assert np.isnan(found["momentum"])
    assert found.document == json.loads(job.download(tmp_path / "result.json", 0).read_text())
    assert found.document["hyperparameters"]["momentum"]["values"] is None
    ElementTree.fromstring(found._repr_html_().replace("&nbsp;", " "))


def test_a_schedule_as_a_tidy_frame(learned):
    found = learned.hyperparameters()
    frame = found.to_pandas("step_size")
    assert list(frame.columns) == ["step", "group", "value"]
    assert len(frame) == 20
    pivoted = frame.pivot(index="step", columns="group", values="value")[list(found.groups)]
    np.testing.assert_array_equal(pivoted.to_numpy(), found["step_size"])
    assert found.to_pandas("momentum").to_dict("list") == {"value": [float(found["momentum"])]}
    with pytest.raises(KeyError):
        found.to_pandas("stepsize")


def test_values_by_weight_go_by_their_groups(waiting, sessions):
    l2 = np.log(np.arange(1, 651, dtype=float))
    job = with_values(
        waiting, sessions, {"hyperparameters.l2": {"learn": True, "per": ["weight"], "initial": 1}}, l2=l2
    )
    frame = job.hyperparameters(0).to_pandas("l2")
    assert list(frame.columns) == ["group", "weight", "value"]
    biases = frame[frame["group"] == "layer_1.biases"]
    assert list(biases["weight"]) == list(range(10))
    np.testing.assert_allclose(biases["value"], np.arange(641, 651))
    assert (frame["group"] == "layer_1.weights").sum() == 640


def test_curves_are_columns_of_the_iterations(learned):
    curves, rows = learned.curves(), learned.iterations()
    assert list(curves["iteration"]) == [0, 1]
    assert curves["iteration"].dtype == np.int64
    for name in ("outer_loss", "train_loss", "hypergradient_norm", "seconds"):
        expected = [math.nan if row[name] is None else row[name] for row in rows]
        np.testing.assert_array_equal(curves[name], expected)
    assert math.isnan(curves["outer_loss"][1])
    assert curves["exact"].tolist() == [True, True]
    assert curves["engine"].tolist() == ["reversible"] * 2
    assert curves["mismatched_bits"].tolist() == [0, 0]
    frame = curves.to_pandas()
    assert frame.index.name == "iteration"
    assert frame.loc[0, "outer_loss"] == 3.0
    assert learned.iterations(after=0) == rows[1:]
    assert "2 meta-iterations" in repr(curves)


def test_curves_of_a_job_that_has_not_begun_are_empty(waiting):
    curves = waiting.jobs.create(SMALL).curves()
    assert [len(curves[name]) for name in curves] == [0] * len(curves)
    assert curves.to_pandas().empty


def test_without_pandas_the_remedy_is_named(learned, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if it were not installed
    with pytest.raises(ImportError, match="pip install pandas"):
        learned.curves().to_pandas()
    with pytest.raises(ImportError, match="pip install pandas"):
        learned.hyperparameters().to_pandas("step_size")
