import time
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.reversal import information_buffer
from core.reversal.information_buffer import NUMBER_BITS, Factors, narrowed, plan_spills, spill, unspill, widened
from core.reversal.lifting import FORGETTING, OVERFLOW, decay


def plan(factors, size=1, **bounds):
    forgets = factors < FORGETTING
    bits = np.minimum(-np.log2(np.maximum(factors, 1e-300)), NUMBER_BITS)
    known = Factors({"v": np.where(forgets, 1.0, factors)}, {"v": forgets}, {"v": bits}, ("v",), len(factors))
    return plan_spills(known, [size] * factors.shape[1], **bounds)


def constant(factor, steps, groups=1):
    return np.full((steps, groups), factor)


def test_spilling_is_inverted_bit_for_bit():
    buffer = jnp.round(jax.random.uniform(jax.random.key(0), 10_000, jnp.float64, -1, 1) * 2.0**52)
    np.testing.assert_array_equal(unspill(*spill(buffer)), buffer)


@pytest.mark.parametrize("steps", [1, 7, 1000, 20_000])
@pytest.mark.parametrize("factor", [0.0, 1e-9, 1e-4, 0.3, 0.9, 0.999, 1.0])
def test_segments_cover_every_step_once_in_order(factor, steps):
    with np.errstate(divide="ignore"):
        segments = plan(constant(factor, steps, 2)).segments
    assert segments[0].start == 0
    assert segments[-1].stop == steps
    assert all(one.stop == other.start for one, other in pairwise(segments))


@pytest.mark.parametrize(
    ("low", "high"), [(0.3, 0.999), (0.01, 0.5), (1e-4, 0.01), (1e-7, 1e-4), (0.999, 0.99999)]
)
def test_buffers_stay_in_range_and_spills_are_no_more_than_needed(low, high):
    """Runs the plan on real buffers, group by group, with values as adverse as random ones are."""
    rng = np.random.default_rng(0)
    factors = rng.uniform(low, high, (1500, 2))
    planned = plan(factors)
    values = [jnp.asarray(np.round(rng.uniform(-1, 1, 100) * 2.0**51)) for _ in range(2)]
    buffers = [jnp.zeros(100), jnp.zeros(100)]
    stored = largest = 0
    step_jit = jax.jit(decay)
    for segment in planned.segments:
        assert not segment.forgets
        for place in segment.spills:
            buffers[place.group], low_bits = spill(buffers[place.group])
            stored += low_bits.size * 32
        for step in range(segment.start, segment.stop):
            for group in range(2):
                values[group], buffers[group] = step_jit(values[group], buffers[group], factors[step, group])
                values[group] = values[group] + jnp.asarray(np.round(rng.uniform(-1, 1, 100) * 2.0**50))
                largest = max(largest, float(jnp.max(jnp.abs(buffers[group]))))
    assert largest <= OVERFLOW
    assert stored <= 1.02 * planned.bound_bits * 100


def test_the_bound_is_the_information_theoretic_one():
    assert plan(constant(0.5, 100), size=7).bound_bits == pytest.approx(700)


def test_forgetting_steps_are_segments_of_their_own():
    factors = constant(0.9, 10, 2)
    factors[4:6, 1] = 0.0
    with np.errstate(divide="ignore"):
        segments = plan(factors).segments
    assert [(one.start, one.stop) for one in segments] == [(0, 4), (4, 6), (6, 10)]
    assert [place.group for place in segments[1].forgets] == [1]


def steps_until_full(magnitudes, growth_bits, slack):
    """`_grow`, step by step."""
    for step in range(min(len(slack), 1 << 14)):
        grown = magnitudes * np.exp2(growth_bits[step]) + slack[step]
        if step and (grown > OVERFLOW).any():
            return step, magnitudes
        magnitudes = grown
    return step + 1, magnitudes


@pytest.mark.parametrize(
    ("low", "high"), [(1e-7, 1e-5), (1e-3, 0.9), (0.3, 0.6), (0.8, 0.95), (0.99, 1.0), (0.99999, 1.0), (0.0, 1e-7)]
)
def test_plans_are_those_of_a_look_at_every_step(low, high, monkeypatch):
    factors = np.random.default_rng(0).uniform(low, high, (20_000, 3))
    factors[5000:5003, 1] = 0.0
    planned = plan(factors)
    monkeypatch.setattr(information_buffer, "_grow", steps_until_full)
    assert planned == plan(factors)


def test_many_short_segments_are_planned_fast():
    began = time.perf_counter()
    segments = plan(constant(0.01, 20_000, 8)).segments
    assert len(segments) > 4000
    assert time.perf_counter() - began < 2  # 0.15 on an idle machine; 4 when every look was at 16384 steps


def test_what_a_tape_holds_at_a_time_is_bounded():
    with np.errstate(divide="ignore"):
        segments = plan(constant(0.0, 1000), size=1 << 20).segments
    assert max(one.stop - one.start for one in segments) == 8  # of 8 MB each


def test_a_part_of_a_trajectory_is_planned_alone():
    factors = np.random.default_rng(0).uniform(0.3, 0.9, (100, 2))
    part = plan(factors, start=40, stop=70)
    alone = plan(factors[40:70])
    assert [(one.start - 40, one.stop - 40, one.spills) for one in part.segments] == [
        (one.start, one.stop, one.spills) for one in alone.segments
    ]
    assert part.bound_bits == alone.bound_bits


@pytest.mark.parametrize("largest", [0, 1, 127, 128, 2**15, 2**31, 2**52])
def test_whole_numbers_are_stored_in_the_narrowest_type(largest):
    integers = jnp.asarray([0.0, -largest, largest])
    stored = narrowed(integers)
    np.testing.assert_array_equal(widened(stored, integers.shape), integers)
    assert stored.nbytes <= 3 * max(1, int(largest).bit_length() // 8 * 2)


@pytest.mark.parametrize("odd", [2.0**63, -(2.0**63), 2.0**80, np.nan, np.inf])
def test_what_no_whole_number_holds_is_stored_as_it_is(odd):
    values = jnp.asarray([1.0, odd])
    stored = narrowed(values)
    assert stored.dtype == jnp.float64
    np.testing.assert_array_equal(widened(np.asarray(stored), values.shape), values)


def test_groups_are_spilled_apart():
    factors = constant(0.999, 500, 2)
    factors[:, 1] = 0.5
    spilled = [place.group for segment in plan(factors).segments for place in segment.spills]
    assert spilled
    assert set(spilled) == {1}
