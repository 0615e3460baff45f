"""Jobs that do not learn, searches, and safeguards."""

import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pydantic import ValidationError

from core.errors import FixedPointOverflow
from core.learning import Learner
from core.records import Trial
from core.safeguard import guarded, look
from core.search import best_of, suggest
from core.spec import JobSpec

DIGITS = {
    "problem": {
        "kind": "classifier",
        "dataset": {"name": "digits", "split": {"train": 200, "valid": 100, "test": 100}},
        "model": {"kind": "logistic_regression"},
    },
    "training": {"num_steps": 10, "batch_size": 100},
    "hyperparameters": {
        "step_size": {"learn": True, "per": ["step"], "initial": 0.3},
        "momentum": {"learn": True, "initial": 0.5},
    },
    "meta": {"num_iterations": 4, "evaluation_seeds": 2},
}


def learner(**changes):
    return Learner.from_spec(JobSpec.model_validate(DIGITS | changes))


def test_a_hypergradient_job_gives_the_mean_and_spread_over_its_seeds():
    job = learner(kind="hypergradient", seeds={"count": 5})
    records = list(job.run())
    assert [one.iteration for one in records] == list(range(5))
    assert len({one.losses.outer for one in records}) == 5
    found = job.arrays(records[-1].checkpoint, job.initial())
    single = [learner(meta=DIGITS["meta"] | {"optimizer": "sgd", "step_size": 1.0, "num_iterations": 1})]
    for one in records:
        np.testing.assert_array_equal(one.checkpoint.values["step_size"], job.initial()["step_size"])
    first = next(single[0].run())
    gradient = first.values["momentum"] - first.checkpoint.values["momentum"]  # a step of 1 along it
    alone = job.arrays(records[0].checkpoint, job.initial())
    assert alone["hypergradient.momentum.mean"] == pytest.approx(gradient, rel=1e-6)
    assert found["hypergradient.step_size.mean"].shape == (10,)
    assert (found["hypergradient.step_size.standard_deviation"] > 0).all()


def test_the_mean_over_seeds_survives_a_restart():
    job = learner(kind="hypergradient", seeds={"count": 4})
    whole = list(job.run())[-1].checkpoint
    halfway = list(job.run())[1].checkpoint
    resumed = list(learner(kind="hypergradient", seeds={"count": 4}).run(halfway))[-1].checkpoint
    for one, other in zip(whole.optimizer_state, resumed.optimizer_state, strict=True):
        np.testing.assert_array_equal(one, other)


def scan(**options):
    return learner(
        kind="scan",
        training=DIGITS["training"] | {"seed": 0, "dtype": "float64"},
        scan={"hyperparameter": "step_size"} | options,
    )


def test_a_scan_visits_its_values_and_tells_the_derivative():
    job = scan(start=-1.0, stop=-0.998, num=3)
    records = list(job.run())
    found = [one.diagnostics["scan"] for one in records]
    assert [one["value"] for one in found] == pytest.approx([-1.0, -0.999, -0.998])
    losses = [one.losses.outer for one in records]
    assert (losses[2] - losses[0]) / 0.002 == pytest.approx(found[1]["derivative"], rel=1e-5)
    assert records[-1].checkpoint.iteration == 3


def test_a_scan_keeps_all_else_as_it_is():
    fresh = learner(kind="scan", scan={"hyperparameter": "step_size", "values": [0.2, 0.2]})
    first, second = fresh.run()
    assert first.losses == second.losses


def test_values_that_no_training_can_be_done_with_are_findings_too():
    records = list(scan(start=-1.0, stop=800.0, num=3).run())  # exp(800) is no number
    assert records[-1].diagnostics["scan"]["derivative"] is None


def test_a_scan_goes_on_after_a_restart():
    whole = list(scan(values=[0.1, 0.2, 0.4]).run())
    resumed = list(scan(values=[0.1, 0.2, 0.4]).run(whole[0].checkpoint))
    assert [one.losses for one in resumed] == [one.losses for one in whole[1:]]


def test_a_training_that_diverges_in_a_scan_is_a_finding():
    records = list(scan(values=[0.1, 1e12, 0.2]).run())
    assert [math.isnan(one.losses.outer) for one in records] == [False, True, False]
    assert records[1].diagnostics["scan"]["derivative"] is None
    assert not records[1].certificate["exact"]
    assert records[2].checkpoint.best_iteration != 1


SEARCH = {"step_size": {"low": 0.01, "high": 3.0}, "momentum": {"low": 0.1, "high": 0.95}}


def warm(trials=12, **meta):
    return learner(meta=DIGITS["meta"] | {"warm_start": {"trials": trials, "search": SEARCH}} | meta)


def test_a_search_finds_a_better_start_than_its_first_trials():
    trials = list(warm(25).search([]))
    assert [one.number for one in trials] == list(range(25))
    assert best_of(trials).outer_loss < min(one.outer_loss for one in trials[:5])
    start = warm(25).start(trials)
    assert np.unique(start["step_size"]).size == 1
    assert 0.01 <= np.exp(start["step_size"][0]) <= 3.0
    assert next(warm(25).run(start=start)).losses.outer < next(learner().run()).losses.outer


def test_a_search_goes_on_as_if_never_stopped():
    whole = list(warm().search([]))
    assert list(warm().search(whole[:5])) == whole[5:]


def test_a_trial_that_diverges_counts_as_worst():
    job = warm()
    past = [Trial(0, {"momentum": 0.0, "step_size": -1.0}, None)]
    assert best_of(past) is None
    np.testing.assert_array_equal(job.start(past)["step_size"], job.initial()["step_size"])
    assert set(suggest(job.spec.meta.warm_start, job.layouts, past)) == {"step_size", "momentum"}


def test_a_safeguard_steps_back_and_shrinks():
    wild = {"optimizer": "sgd", "step_size": 30.0, "num_iterations": 9, "evaluation_seeds": 2}
    guarded = learner(meta=wild | {"safeguard": {"every": 3, "shrink": 0.25}})
    records = list(guarded.run())
    looked = [one.diagnostics["safeguard"] for one in records if one.diagnostics]
    assert any(one["stepped_back"] for one in looked)
    assert looked[-1]["scale"] < 1
    before = guarded.evaluate(guarded.initial()).losses.outer
    last = guarded.evaluate(records[-1].checkpoint.values).losses.outer
    assert last <= before
    with pytest.raises(FixedPointOverflow):  # the same descent without
        list(learner(meta=wild).run())


def test_a_guarded_descent_survives_divergence():
    wild = {"optimizer": "sgd", "step_size": 1e5, "num_iterations": 6, "evaluation_seeds": 1}
    records = list(learner(meta=wild | {"safeguard": {"every": 5, "shrink": 0.001}}).run())
    assert len(records) == 6
    assert all(np.isfinite(one).all() for one in records[-1].checkpoint.values.values())


def test_a_guarded_descent_goes_on_after_a_restart():
    wild = {"optimizer": "sgd", "step_size": 30.0, "num_iterations": 9, "evaluation_seeds": 2}
    job = learner(meta=wild | {"safeguard": {"every": 3, "shrink": 0.25}})
    whole = list(job.run())
    back = next(one.iteration for one in whole if one.diagnostics and one.diagnostics["safeguard"]["stepped_back"])
    assert back < 8
    resumed = list(job.run(whole[back].checkpoint))
    for name, values in whole[-1].checkpoint.values.items():
        np.testing.assert_array_equal(resumed[-1].checkpoint.values[name], values)


@pytest.mark.parametrize("stands_at_the_best", [True, False])
def test_only_a_step_is_shortened_by_divergence(stands_at_the_best):
    optimizer = optax.sgd(1.0)
    best = {"step_size": jnp.zeros(3)}
    state = guarded(optimizer).init(best)._replace(best_value=jnp.asarray(1.0))
    here = best if stands_at_the_best else {"step_size": jnp.ones(3)}
    hyper, after, back = look(optimizer, state, here, np.inf, 0.5)
    np.testing.assert_array_equal(hyper["step_size"], best["step_size"])
    assert (back, float(after.scale)) == ((False, 1.0) if stands_at_the_best else (True, 0.5))


def test_a_start_that_cannot_be_evaluated_is_no_end_of_a_guarded_descent(monkeypatch):
    job = learner(meta=DIGITS["meta"] | {"safeguard": {"every": 50}, "num_iterations": 2, "evaluation_seeds": 1})
    evaluate, calls = job.evaluate, []

    def diverges_at_first(values):
        calls.append(values)
        if len(calls) == 1:
            raise FixedPointOverflow(step=3, group="weights", largest=np.inf, limit=1e6)
        return evaluate(values)

    monkeypatch.setattr(job, "evaluate", diverges_at_first)
    records = list(job.run())
    assert len(records) == 2
    assert records[-1].diagnostics["safeguard"]["outer_loss"] is not None


def test_the_last_look_is_at_the_end():
    meta = {"optimizer": "adam", "step_size": 1.0, "num_iterations": 5, "evaluation_seeds": 1}
    job = learner(meta=meta | {"safeguard": {"every": 3}})
    records = list(job.run())
    assert [one.iteration for one in records if one.diagnostics] == [2, 4]
    last = job.evaluate(records[-1].checkpoint.values).losses.outer
    assert last <= job.evaluate(job.initial()).losses.outer


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "hypergradient", "meta": {"clip": 1.0}}, "meta.clip guides a descent"),
        ({"kind": "hypergradient", "meta": {"safeguard": {"every": 2}}}, "meta.safeguard guides a descent"),
        ({"kind": "hypergradient", "meta": {"stop_when": {"hypergradient_norm_grows": 2.0}}}, "meta.stop_when"),
        (
            {"kind": "scan", "scan": {"hyperparameter": "momentum", "start": 0.0, "stop": 2e3, "num": 3}},
            "less than or equal to 1000",
        ),
        (
            {"meta": {"warm_start": {"trials": 3, "search": {"l2": {"low": -1.0, "high": 1.0}}}}}
            | {"hyperparameters": {"l2": {"learn": True, "transform": "identity"}}},
            "l2 cannot be -1; give values of 0 or more",
        ),
        (
            {
                "problem": {"kind": "toy"},
                "training": {"num_steps": 10_000},
                "diagnostics": {"every": 1, "path": True},
                "meta": {"num_iterations": 10_000},
            },
            "raise diagnostics.every",
        ),
        (
            {"diagnostics": {"every": 1, "finite_differences": 1024}, "meta": {"num_iterations": 1000}},
            "raise diag",
        ),
    ],
)
def test_what_a_job_could_not_carry_out_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        JobSpec.model_validate(DIGITS | changes)


def test_clipping_bounds_the_step():
    meta = DIGITS["meta"] | {"optimizer": "sgd", "step_size": 1.0, "num_iterations": 1, "clip": 1e-3}
    record = next(learner(meta=meta).run())
    moved = np.concatenate(
        [np.ravel(record.checkpoint.values[name] - record.values[name]) for name in record.values]
    )
    assert np.linalg.norm(moved) == pytest.approx(1e-3)


@pytest.mark.slow
def test_naive_reversal_misses_where_the_exact_one_does_not():
    job = learner(
        kind="hypergradient",
        seeds={"count": 1},
        training={"num_steps": 60, "batch_size": 100},  # floats are off by 2⁶⁰ roundings then, but finite
        hyperparameters={"step_size": {"learn": True, "initial": 0.3}, "momentum": {"initial": 0.5}},
        diagnostics={"every": 1, "naive_reversal": True},
    )
    record = next(job.run())
    assert record.certificate["mismatched_bits"] == 0
    assert record.diagnostics["naive_reversal"]["start_missed_by"] > 1


def test_learning_curves_are_of_the_initial_and_the_best_values():
    job = learner()
    checkpoint = list(job.run())[-1].checkpoint
    found = job.arrays(checkpoint, checkpoint.values)
    assert found["learning_curve.initial"].shape == (10,)
    assert found["learning_curve.best"][-1] < found["learning_curve.initial"][-1]
