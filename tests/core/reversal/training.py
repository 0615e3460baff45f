"""A training run without a problem around it, for tests of what happens below the engines."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from core.reversal.departure import first_departures
from core.reversal.drift import drift_of
from core.reversal.optimizers import sgd
from core.reversal.schedule import normalize, prepare
from core.reversal.segments import only_gradient
from core.reversal.states import mismatched_bits
from core.reversal.stepping import default_units, fixed_rest
from core.reversal.trajectory import Course, backward, factors_of, forward, plan_for

KEY = jax.random.key(1)


def make_params(dtype):
    first, second = jax.random.split(jax.random.key(0))
    return {"a": jax.random.normal(first, (5, 7), dtype), "b": jax.random.normal(second, (7,), dtype)}


def noisy_gradient(params, step, key):
    """A gradient with every bit in play, different in every step."""
    key = jax.random.fold_in(key, step)
    return jax.tree.map(lambda w: jnp.sin(3 * w) + jax.random.normal(key, w.shape, w.dtype), params)


class Training:
    def __init__(
        self, schedule, steps, dtype=jnp.float64, gradient=noisy_gradient, optimizer=None, params=None, units=None
    ):
        self.optimizer = optimizer or sgd()
        self.params = make_params(dtype) if params is None else params
        self.given = normalize(schedule, self.optimizer, self.params, steps)
        dtypes = jax.tree.map(lambda leaf: jnp.dtype(leaf.dtype), self.params)
        schedule = prepare(self.given, self.optimizer, steps)
        factors = factors_of(self.optimizer, schedule, self.params, steps)
        self.course = Course(self.optimizer, dtypes, schedule, drift_of(factors), KEY)
        self.gradient = Partial(gradient)
        self.steps = steps
        self.units = units or default_units(self.optimizer, self.params)
        self.plan = plan_for(self.optimizer, self.course.schedule, self.params, steps)

    def initial(self):
        return fixed_rest(self.optimizer, self.params, self.units, tuple(self.course.drift.after))

    def forward(self, plan=None, **kwargs):
        return forward(self.course, self.gradient, self.initial(), plan or self.plan, **kwargs)

    def backward(self, trajectory):
        state, _, missed = backward(self.course, only_gradient(self.gradient), trajectory, ())
        assert not any(missed.values())
        return state

    def first_departure(self):
        return first_departures(self.course, self.gradient, self.initial(), [self.plan]).get(0)

    def mismatch(self, state):
        """Differing bits by field: of memory, and of buffers, which must be empty again."""
        return {name: bits for name, bits in mismatched_bits(state, self.initial()).items() if bits}

    def there_and_back(self):
        return self.mismatch(self.backward(self.forward()))
