"""Units that drift instead of numbers that decay: scales, legs, and what they leave to be proven."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.reversal.drift import drift_of
from core.reversal.information_buffer import NUMBER_BITS, Factors
from core.reversal.lifting import FORGETTING, LEAST_SCALE
from core.reversal.optimizers import adamw
from core.reversal.trajectory import LeftRange
from tests.core.reversal.training import Training


def factors_like(**fields):
    forgets = {name: rows < FORGETTING for name, rows in fields.items()}
    kept = {name: np.where(forgets[name], 1.0, rows) for name, rows in fields.items()}
    bits = {name: np.minimum(-np.log2(np.maximum(rows, 1e-300)), NUMBER_BITS) for name, rows in fields.items()}
    return Factors(kept, forgets, bits, tuple(fields), len(next(iter(fields.values()))))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 200),
    st.integers(1, 3),
    st.sampled_from([0.26, 0.5, 0.9, 0.999]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_scales_follow_the_factors_and_never_pass_their_floor(steps, groups, least, forgets, seed):
    rng = np.random.default_rng(seed)
    rows = rng.uniform(least, 1, (steps, groups))
    if forgets:
        rows[rng.random(rows.shape) < 0.1] = 0.0  # what a step forgets does not drift
    factors = factors_like(velocity=rows)
    drift = drift_of(factors)
    before = np.stack([drift.before(step)["velocity"] for step in range(steps)])
    after = np.broadcast_to(drift.after["velocity"], before.shape)
    begins = np.asarray(drift.first) == np.arange(steps)
    np.testing.assert_allclose(after, before * factors.smallest["velocity"], rtol=1e-15)
    np.testing.assert_array_equal(before[begins], 1.0)
    np.testing.assert_array_equal(before[1:][~begins[1:]], after[:-1][~begins[1:]])
    assert (after >= LEAST_SCALE * (1 - 1e-6)).all()


def test_scales_are_as_exact_late_in_training_as_early():
    rows = np.concatenate([np.full((100_000, 1), 0.3), np.full((100_000, 1), 1 - 1e-9)])
    after = np.asarray(drift_of(factors_like(velocity=rows)).after["velocity"])[:, 0]
    np.testing.assert_allclose(after[100_001:] / after[100_000:-1], 1 - 1e-9, rtol=1e-15)


def test_groups_that_decay_alike_share_a_column():
    rows = np.full((30, 5), 0.9)
    alike, apart = (
        drift_of(factors_like(velocity=rows)),
        drift_of(factors_like(velocity=rows + np.array([0, 0, 0, 0, 0.01]))),
    )
    assert (alike.after["velocity"].shape, apart.after["velocity"].shape) == ((30, 1), (30, 5))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.sampled_from([0.3, 0.9, 1.0]))
def test_legs_cover_every_step_once_and_are_as_long_as_they_may(steps, factor):
    drift = drift_of(factors_like(velocity=np.full((steps, 1), factor)))
    first, stop = np.asarray(drift.first), np.asarray(drift.stop)
    starts = np.unique(first)
    np.testing.assert_array_equal(np.append(starts[1:], steps), np.unique(stop))
    for start, end in zip(starts, np.unique(stop), strict=True):
        assert (first[start:end] == start).all()
        assert end == steps or factor ** (end - start + 1) < LEAST_SCALE


@pytest.mark.parametrize(
    ("name", "factor", "drifts"),
    [("velocity", 0.3, True), ("velocity", 0.25, True), ("velocity", 0.2, False), ("position", 0.95, False)],
)
def test_weights_and_what_decays_too_fast_are_lifted_in_every_step(name, factor, drifts):
    assert (name in drift_of(factors_like(**{name: np.full((5, 1), factor)})).after) is drifts


def test_factors_that_differ_within_a_group_are_lifted():
    factors = factors_like(velocity=np.full((5, 1), 0.9))._replace(uniform=())
    drift = drift_of(factors)
    assert not drift.after
    np.testing.assert_array_equal(drift.stop, 5)  # one leg


@pytest.mark.parametrize(
    "momentum", [0.9, np.where(np.arange(60) % 7, 0.9, 0.0), np.where(np.arange(60) < 5, 1e-9, 0.5)]
)
def test_drifting_follows_the_recurrence(momentum):
    """Against a float64 loop in NumPy, to the rounding of increments alone."""
    training = Training({"step_size": 0.05, "momentum": momentum}, 60, gradient=lambda w, step, key: w)
    assert "velocity" in training.course.drift.after
    for name, w in training.params.items():
        v = 0.0
        for gamma in np.broadcast_to(momentum, 60):
            v = gamma * v - (1 - gamma) * w
            w = w + 0.05 * v
        position = training.forward().state.position[name]
        np.testing.assert_allclose(position.integers * position.unit, w, rtol=0, atol=5e-11)


def test_all_memories_drift_and_come_back():
    training = Training({"step_size": 0.02, "weight_decay": 0.5, "b2": 0.9}, 150, optimizer=adamw())
    assert set(training.course.drift.after) == {"moment", "square"}
    assert training.there_and_back() == {}


def test_the_bits_by_which_numbers_grew_are_counted():
    training = Training({"step_size": 0.01, "momentum": 0.9}, 10)  # one leg: no buffer holds anything
    trajectory = training.forward()
    assert np.isclose(trajectory.stored_bits, training.plan.bound_bits)


def test_other_scales_on_the_way_back_miss_the_start():
    """A negative control: scales are part of what must be the same twice."""
    training = Training({"step_size": 0.01, "momentum": 0.9}, 50)
    trajectory = training.forward()
    off = {field: scales * (1 + 1e-9) for field, scales in training.course.drift.after.items()}
    training.course = training.course._replace(drift=training.course.drift._replace(after=off))
    assert training.mismatch(training.backward(trajectory))


@pytest.mark.parametrize("steps", [2, 3, 14, 15, 40])
def test_what_is_too_large_does_not_depend_on_where_in_a_leg_one_looks(steps):
    """A velocity that stays where its integers fit at the start of a leg and not at its end."""

    def constant(params, step, key):
        return jax.tree.map(lambda w: jnp.full_like(w, 2000.0), params)  # 2**51 units of 2**-40

    training = Training({"step_size": 0.0, "momentum": 0.5}, steps, gradient=constant)
    with pytest.raises(LeftRange):
        training.forward()


def test_a_leg_left_unsettled_misses_the_start():
    training = Training({"step_size": 0.01, "momentum": 0.9}, 50)
    trajectory = training.forward()
    no_legs = training.course.drift._replace(first=jnp.zeros_like(training.course.drift.first))
    training.course = training.course._replace(drift=no_legs)
    assert training.mismatch(training.backward(trajectory))
