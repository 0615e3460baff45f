import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.reversal.lifting import FORGETTING, decay, to_fixed, to_real, undecay


def random_integers(key, shape, bits):
    return jnp.round(jax.random.uniform(key, shape, jnp.float64, -1, 1) * 2.0**bits)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    factor=st.floats(FORGETTING, 1.0),
    value_bits=st.integers(0, 51),
    buffer_bits=st.integers(0, 27),
)
def test_undecay_inverts_decay_bit_for_bit(seed, factor, value_bits, buffer_bits):
    first, second = jax.random.split(jax.random.key(seed))
    value, buffer = random_integers(first, 64, value_bits), random_integers(second, 64, buffer_bits)
    decayed = decay(value, buffer, factor)
    np.testing.assert_array_equal(undecay(*decayed, factor), (value, buffer))


@pytest.mark.parametrize("jitted", ["neither", "decay", "undecay", "both"])
def test_the_inverse_holds_however_each_half_is_compiled(jitted):
    value, buffer = random_integers(jax.random.key(0), 4096, 50), random_integers(jax.random.key(1), 4096, 45)
    factor = jax.random.uniform(jax.random.key(2), 4096, jnp.float64, 0.3, 1.0)
    there = jax.jit(decay) if jitted in {"decay", "both"} else decay
    back = jax.jit(undecay) if jitted in {"undecay", "both"} else undecay
    np.testing.assert_array_equal(back(*there(value, buffer, factor), factor), (value, buffer))


@pytest.mark.parametrize("factor", [0.001, 0.3, 0.5, 0.9, 0.999, 1.0])
def test_decay_scales_to_within_two_units_whatever_the_buffer_holds(factor):
    value, buffer = random_integers(jax.random.key(0), 4096, 48), random_integers(jax.random.key(1), 4096, 40)
    decayed, _ = decay(value, buffer, factor)
    assert float(jnp.max(jnp.abs(decayed - factor * value))) <= 2


@pytest.mark.parametrize("factor", [0.5, 0.9, 0.98])
def test_the_buffer_grows_by_the_information_that_decay_sheds(factor):
    value, buffer = random_integers(jax.random.key(0), 256, 40), jnp.zeros(256)
    steps = int(40 / -np.log2(factor))
    for _ in range(steps):
        value, buffer = decay(value, buffer, factor)
    bits = np.log2(float(jnp.max(jnp.abs(buffer))))
    assert -steps * np.log2(factor) - 3 < bits < -steps * np.log2(factor) + 7


def test_dropping_the_buffer_breaks_recovery():
    value = random_integers(jax.random.key(0), 256, 48)
    decayed, buffer = decay(value, jnp.zeros(256), 0.5)
    recovered, _ = undecay(decayed, jnp.zeros_like(buffer), 0.5)
    assert not np.array_equal(recovered, value)


def test_a_forgetting_factor_scales_the_value_and_leaves_the_buffer():
    value, buffer = random_integers(jax.random.key(0), 256, 50), random_integers(jax.random.key(1), 256, 40)
    decayed, after = decay(value, buffer, FORGETTING / 4)
    np.testing.assert_array_equal(decayed, np.round(FORGETTING / 4 * value))
    np.testing.assert_array_equal(after, buffer)
    np.testing.assert_array_equal(undecay(decayed, after, FORGETTING / 4), (decayed, buffer))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_fixed_point_keeps_twelve_digits(dtype):
    real = jax.random.normal(jax.random.key(0), 1000, dtype)
    np.testing.assert_allclose(to_real(to_fixed(real), dtype), real, atol=2.0**-41, rtol=jnp.finfo(dtype).eps)
