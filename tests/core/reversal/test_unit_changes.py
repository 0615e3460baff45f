"""A change of units is undone bit for bit, whatever it changes."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from core.reversal.information_buffer import Place, Plan, Segment
from core.reversal.moves import Fixed
from core.reversal.optimizers import sgd
from core.reversal.stepping import rest
from core.reversal.stores import HostStore
from core.reversal.unit_changes import change_units, restore_units, with_units_before


def state_of(integers, unit):
    state = rest(sgd(), {"a": jnp.zeros(1)})
    number = Fixed(jnp.asarray(integers), jnp.asarray(unit), jnp.ones_like(integers))
    return jax.tree.map(lambda _: number, state)


@settings(deadline=None)
@given(
    integers=st.lists(st.integers(-(2**52), 2**52), min_size=1, max_size=6),
    bits=st.lists(st.integers(0, 90), min_size=6, max_size=6),
    each=st.booleans(),
)
def test_it_is_undone_bit_for_bit(integers, bits, each):
    integers = np.asarray(integers, float)
    bits = np.asarray(bits[: len(integers)] if each else bits[0])
    unit = np.full(bits.shape, 2.0**-60)
    state, store, change = state_of(integers, unit), HostStore(), {Place("velocity", 0): bits}
    changed = change_units(state, change, store)
    velocity = changed.velocity["a"]
    np.testing.assert_array_equal(velocity.unit, np.ldexp(unit, bits))
    assert (np.abs(velocity.integers * velocity.unit - integers * unit) <= velocity.unit / 2).all()
    np.testing.assert_array_equal(changed.position["a"].integers, integers)
    back = restore_units(changed, change, store)
    np.testing.assert_array_equal(back.velocity["a"].integers, integers)
    np.testing.assert_array_equal(back.velocity["a"].unit, unit)
    assert len(store) == 0
    np.testing.assert_array_equal(with_units_before(changed, change).velocity["a"].unit, unit)


@settings(deadline=None)
@given(integers=st.lists(st.integers(-(2**20), 2**20), min_size=1, max_size=6), finer=st.integers(0, 32))
def test_a_finer_unit_takes_no_bits(integers, finer):
    state, store, change = state_of(np.asarray(integers, float), 1.0), HostStore(), {Place("velocity", 0): -finer}
    changed = change_units(state, change, store)
    np.testing.assert_array_equal(changed.velocity["a"].integers, np.asarray(integers) * 2.0**finer)
    assert store.bits == 0
    np.testing.assert_array_equal(restore_units(changed, change, store).velocity["a"].integers, integers)


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    cuts=st.sets(st.integers(-2, 50)),
)
def test_a_plan_is_cut_where_units_change(lengths, cuts):
    ends = np.cumsum(lengths)
    spills = (Place("velocity", 0),)
    plan = Plan(
        tuple(Segment(int(end - n), int(end), spills, ()) for end, n in zip(ends, lengths, strict=True)), 0.0, (1,)
    )
    cut = plan.cut_at(cuts)
    assert [step for one in cut.segments for step in range(one.start, one.stop)] == list(range(ends[-1]))
    starts = {one.start for one in cut.segments}
    assert starts == {one.start for one in plan.segments} | {step for step in cuts if 0 <= step < ends[-1]}
    assert [one.start for one in cut.segments if one.spills] == [one.start for one in plan.segments]
    parts = list(cut.parts(cuts))
    assert [segment for part in parts for segment in part.segments] == list(cut.segments)
    assert {part.segments[-1].stop for part in parts} == {step for step in cuts if 0 < step < ends[-1]} | {
        ends[-1]
    }
