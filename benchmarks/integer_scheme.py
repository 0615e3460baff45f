"""The scheme of the original paper: training undone by exact integer multiplication by a rational momentum.

Weights and velocity are int64 in units of 2**-FRACTION_BITS. The momentum is a fraction n/d, d = 2**DENOMINATOR_BITS.
What multiplying by it would lose goes into an information buffer, one big non-negative integer a weight: int64 here,
its low words spilled to host memory before it could overflow. When it could is known from the momenta alone, so
everything between two spills is one compiled loop.

References: Maclaurin, Duvenaud, Adams 2015, "Gradient-based Hyperparameter Optimization through Reversible Learning",
algorithms 2 and 3. A baseline: momentum at least 2**-16, weights and velocities below 2**(63 - FRACTION_BITS).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.engines.inner import accumulators, inner_gradient, outer, replace_leaves
from core.engines.problem import Hyper, Params, Problem

FRACTION_BITS = (
    52  # as in the code of the paper; every bit less doubles what the remainders disturb the velocity by
)
DENOMINATOR_BITS = 16
DENOMINATOR = 1 << DENOMINATOR_BITS
_LOW = DENOMINATOR - 1
_WORD_BITS = 32
_FULL = 2.0**62
_WORTH_SPILLING = 2.0 ** (_WORD_BITS + 6)  # below this a word would store leading zeros

Arrays = list[jax.Array]  # one a group: the leaves of the parameters
each = jax.tree.map  # over groups


class State(NamedTuple):
    """Of training; int64."""

    position: Arrays
    velocity: Arrays
    buffer: Arrays


class Rows(NamedTuple):
    """Hyperparameters of every step and group, or their cotangents."""

    step_size: jax.Array  # [T, groups]
    momentum: jax.Array  # [T, groups]


class Run(NamedTuple):
    """What stays the same in every step."""

    problem: Problem
    hyper: Hyper
    key: jax.Array
    params: Params  # initial
    rows: Rows
    numerators: jax.Array  # n, [T, groups]


class Adjoint(NamedTuple):
    """Derivative of the outer loss with respect to what training has come from."""

    position: Arrays
    velocity: Arrays
    rows: Rows
    hyper: dict[int, jax.Array]  # leaves of hyper that the inner loss reads, by index


class Segment(NamedTuple):
    """Steps [start, stop); before them the low words of these groups' buffers go to the host."""

    start: int
    stop: int
    spills: tuple[int, ...]


class IntegerResult(NamedTuple):
    """A hypergradient, and whether training got back to where it began."""

    value: jax.Array
    gradient: Hyper
    stored_bits_per_param_step: float
    mismatched_bits: int  # of weights, velocities and buffers


def integer_hypergradient(problem: Problem, hyper: Hyper, num_steps: int, key: jax.Array) -> IntegerResult:
    """Gradient of the outer loss after SGD with momentum (`core.engines.sgd`), by the paper's scheme.

    Args:
        problem: its schedule gives `step_size` and `momentum`, each a scalar, [T], [T, groups] or [1, groups].
        hyper: what to differentiate with respect to.
        num_steps: T.
        key: of the run.

    Raises:
        ValueError: a momentum that is no fraction n/d with 0 < n ≤ d.
    """
    params, rows = _begin(problem, hyper, key, num_steps)
    numerators = numerators_of(rows.momentum)
    segments = plan_spills(numerators)
    start = state = _at_rest(params)
    run = Run(problem, hyper, key, params, rows, jnp.asarray(numerators))

    words: list[list[np.ndarray]] = []
    for segment in segments:
        state, low = _spill(state, segment.spills)
        words.append([np.asarray(word) for word in low])
        state = _advance(run, state, segment.start, segment.stop)
    stored = sum(8 * word.nbytes for spilled in words for word in spilled) + _bits_in_use(state.buffer)

    value, (d_params, d_hyper) = outer(problem, _real(state.position, params), hyper, key)
    d_position = jax.tree.leaves(d_params)
    at_rest = [jnp.zeros_like(leaf) for leaf in d_position]
    d_rows = Rows(*(jnp.zeros_like(row) for row in rows))
    adjoint = Adjoint(d_position, at_rest, d_rows, accumulators(problem, params, hyper, key))
    for segment in reversed(segments):
        state, adjoint = _rewind(run, state, adjoint, segment.start, segment.stop)
        state = _unspill(state, segment.spills, words.pop())

    gradient = _collect(run, num_steps, adjoint, d_hyper)
    size = sum(leaf.size for leaf in start.position)
    return IntegerResult(value, gradient, stored / size / num_steps, int(_differing_bits(start, state)))


def multiply(value: jax.Array, buffer: jax.Array, numerator: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Multiply `value` by numerator/DENOMINATOR; the buffer takes the digit that is lost and gives the one that is won.

    Args:
        value: int64.
        buffer: int64, at least 0 and below 2**(63 - DENOMINATOR_BITS); grows by the inverse factor.
        numerator: n, 0 < n ≤ DENOMINATOR.
    """
    buffer = (buffer << DENOMINATOR_BITS) | (value & _LOW)
    value = value >> DENOMINATOR_BITS
    quotient = jax.lax.div(buffer, jnp.broadcast_to(numerator, buffer.shape))
    value = value * numerator + (buffer - quotient * numerator)
    return value, quotient


def divide(value: jax.Array, buffer: jax.Array, numerator: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Exact inverse of `multiply`."""
    quotient = jax.lax.div(value, jnp.broadcast_to(numerator, value.shape))
    remainder = value - quotient * numerator
    negative = remainder < 0  # division truncates, but the digit put there was not negative
    buffer = buffer * numerator + jnp.where(negative, remainder + numerator, remainder)
    value = ((quotient - negative) << DENOMINATOR_BITS) | (buffer & _LOW)
    return value, buffer >> DENOMINATOR_BITS


def numerators_of(momentum: jax.Array) -> np.ndarray:
    """n of every step and group, the nearest to the momentum."""
    numerators = np.rint(np.asarray(momentum) * DENOMINATOR)
    if not ((numerators > 0) & (numerators <= DENOMINATOR)).all():
        raise ValueError(
            f"every momentum must be in [2**-{DENOMINATOR_BITS}, 1]: the paper's scheme has no other fractions"
        )
    return numerators.astype(np.int64)


def plan_spills(numerators: np.ndarray) -> list[Segment]:
    """Segments in which no buffer can leave int64, from n of every step and group."""
    segments: list[Segment] = []
    start = 0
    spills: tuple[int, ...] = ()
    largest = np.zeros(numerators.shape[1])
    for step, row in enumerate(numerators):
        shifted = (largest + 1) * DENOMINATOR  # a buffer after it has taken its digit
        if (shifted > _FULL).any():
            segments.append(Segment(start, step, spills))
            chosen = (shifted > _FULL) | (largest >= _WORTH_SPILLING)
            start, spills = step, tuple(int(group) for group in np.flatnonzero(chosen))
            largest = np.where(chosen, largest * 2.0**-_WORD_BITS + 1, largest)
            shifted = (largest + 1) * DENOMINATOR
        largest = shifted / row
    return [*segments, Segment(start, len(numerators), spills)]


@partial(jax.jit, static_argnames="num_steps")
def _begin(problem: Problem, hyper: Hyper, key: jax.Array, num_steps: int) -> tuple[Params, Rows]:
    params = problem.init(hyper, key)
    schedule = problem.schedule(hyper)
    shape = (num_steps, len(jax.tree.leaves(params)))

    def row(name: str) -> jax.Array:
        values = jnp.asarray(schedule[name], jnp.float64)
        return jnp.broadcast_to(values.reshape(-1, 1) if values.ndim < 2 else values, shape)

    return params, Rows(row("step_size"), row("momentum"))


@jax.jit
def _at_rest(params: Params) -> State:
    position = [_to_integer(leaf) for leaf in jax.tree.leaves(params)]
    return State(position, [jnp.zeros_like(one) for one in position], [jnp.zeros_like(one) for one in position])


def _to_integer(real: jax.Array) -> jax.Array:
    return jnp.round(real.astype(jnp.float64) * 2.0**FRACTION_BITS).astype(jnp.int64)


def _to_real(integers: jax.Array, dtype: Any) -> jax.Array:
    return (integers.astype(jnp.float64) * 2.0**-FRACTION_BITS).astype(dtype)


def _real(integers: Arrays, like: Params) -> Params:
    """Parameters in compute precision."""
    leaves, shapes = jax.tree.flatten(like)
    return shapes.unflatten([_to_real(one, leaf.dtype) for one, leaf in zip(integers, leaves, strict=True)])


def _move(velocity: jax.Array, step_size: jax.Array) -> jax.Array:
    """α v, the same integers whenever it is asked for."""
    return jnp.round(step_size * velocity.astype(jnp.float64)).astype(jnp.int64)


def _push(gradient: jax.Array, numerator: jax.Array) -> jax.Array:
    """(1 − γ) g, with the momentum that the velocity is multiplied by."""
    return _to_integer((1 - numerator / DENOMINATOR) * gradient.astype(jnp.float64))


@jax.jit
def _advance(run: Run, state: State, start: int, stop: int) -> State:
    """Take steps [start, stop)."""
    gradient = inner_gradient(run.problem, run.hyper)

    def take(step: jax.Array, state: State) -> State:
        step_size, numerator = list(run.rows.step_size[step]), list(run.numerators[step])
        # barriers: the gradient must have the same bits here and in `_rewind`
        params = jax.lax.optimization_barrier(_real(state.position, run.params))
        pushes = jax.lax.optimization_barrier(jax.tree.leaves(gradient(params, step, run.key)))
        velocity, buffer = _apart(multiply, state.velocity, state.buffer, numerator)
        velocity = each(lambda v, g, n: v - _push(g, n), velocity, pushes, numerator)
        position = each(lambda w, v, α: w + _move(v, α), state.position, velocity, step_size)
        return State(position, velocity, buffer)

    return jax.lax.fori_loop(start, stop, take, state)


@jax.jit
def _rewind(run: Run, state: State, adjoint: Adjoint, start: int, stop: int) -> tuple[State, Adjoint]:
    """Undo steps [start, stop), the last one first, and carry the adjoint over each."""
    shapes = jax.tree.structure(run.params)

    def undo(iteration: jax.Array, both: tuple[State, Adjoint]) -> tuple[State, Adjoint]:
        state, adjoint = both
        step = stop - 1 - iteration
        step_size, numerator = list(run.rows.step_size[step]), list(run.numerators[step])
        momentum = each(lambda n, d: (n / DENOMINATOR).astype(d.dtype), numerator, adjoint.position)

        d_step_size = each(lambda d, v: _dot(d, _to_real(v, d.dtype)), adjoint.position, state.velocity)
        d_velocity = each(
            lambda d, d_w, α: d + α.astype(d.dtype) * d_w, adjoint.velocity, adjoint.position, step_size
        )
        position = each(lambda w, v, α: w - _move(v, α), state.position, state.velocity, step_size)
        params = jax.lax.optimization_barrier(_real(position, run.params))
        direction = shapes.unflatten(each(lambda d, γ: (γ - 1) * d, d_velocity, momentum))
        gradient, d_params, d_hyper = _second_order(run, step, params, direction, adjoint.hyper)
        velocity = each(lambda v, g, n: v + _push(g, n), state.velocity, gradient, numerator)
        velocity, buffer = _apart(divide, velocity, state.buffer, numerator)
        d_momentum = each(lambda d, v, g: _dot(d, _to_real(v, d.dtype) + g), d_velocity, velocity, gradient)

        return State(position, velocity, buffer), Adjoint(
            each(jnp.add, adjoint.position, d_params),
            each(jnp.multiply, momentum, d_velocity),
            Rows(
                adjoint.rows.step_size.at[step].set(jnp.stack(d_step_size)),
                adjoint.rows.momentum.at[step].set(jnp.stack(d_momentum)),
            ),
            each(jnp.add, adjoint.hyper, d_hyper),
        )

    return jax.lax.fori_loop(0, stop - start, undo, (state, adjoint))


def _apart(pair: Any, velocity: Arrays, buffer: Arrays, numerator: Arrays) -> tuple[Arrays, Arrays]:
    """`multiply` or `divide` in every group."""
    both = [pair(*group) for group in zip(velocity, buffer, numerator, strict=True)]
    return [v for v, _ in both], [b for _, b in both]


def _second_order(
    run: Run, step: jax.Array, params: Params, direction: Params, read: dict[int, jax.Array]
) -> tuple[Arrays, Arrays, dict[int, jax.Array]]:
    """The gradient; and `direction` times the second derivatives by params and by what is read of hyper."""
    leaves = jax.tree.leaves(run.hyper)
    values = {index: leaves[index] for index in read}

    def gradients(params: Params) -> Any:
        def loss(params: Params, read: dict[int, jax.Array]) -> jax.Array:
            hyper = replace_leaves(run.hyper, read)
            return run.problem.inner_loss(params, hyper, step, jax.random.fold_in(run.key, step))

        return jax.grad(loss, argnums=(0, 1))(params, values)

    (gradient, _), (d_params, d_read) = jax.jvp(gradients, (params,), (direction,))
    # barrier: without it XLA on CPU fuses the product into each of its consumers and recomputes it there
    return jax.lax.optimization_barrier((jax.tree.leaves(gradient), jax.tree.leaves(d_params), d_read))


def _dot(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.vdot(left, right, precision="highest").astype(jnp.float64)


@partial(jax.jit, static_argnames="num_steps")
def _collect(run: Run, num_steps: int, adjoint: Adjoint, d_hyper: Hyper) -> Hyper:
    """Sum of the gradients through the outer loss, where training begins, and every inner loss."""
    d_params = jax.tree.structure(run.params).unflatten(adjoint.position)
    _, pull = jax.vjp(lambda hyper: _begin(run.problem, hyper, run.key, num_steps), run.hyper)
    gradient = each(jnp.add, d_hyper, pull((d_params, adjoint.rows))[0])
    leaves = jax.tree.leaves(gradient)
    return replace_leaves(gradient, {index: leaves[index] + more for index, more in adjoint.hyper.items()})


@partial(jax.jit, static_argnames="groups")
def _spill(state: State, groups: tuple[int, ...]) -> tuple[State, Arrays]:
    """Take the low words of these groups' buffers off."""
    words = [state.buffer[group].astype(jnp.uint32) for group in groups]
    high = [one >> _WORD_BITS if group in groups else one for group, one in enumerate(state.buffer)]
    return state._replace(buffer=high), words


@partial(jax.jit, static_argnames="groups")
def _unspill(state: State, groups: tuple[int, ...], words: Arrays) -> State:
    """Exact inverse of `_spill`."""
    buffer = list(state.buffer)
    for group, word in zip(groups, words, strict=True):
        buffer[group] = (buffer[group] << _WORD_BITS) | word.astype(jnp.int64)
    return state._replace(buffer=buffer)


def _bits_in_use(buffers: Arrays) -> int:
    """Bits that buffers still hold: each group's largest element times its size."""
    return sum(int(jnp.max(one, initial=0)).bit_length() * one.size for one in buffers)


@jax.jit
def _differing_bits(left: State, right: State) -> jax.Array:
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return jnp.sum(jnp.stack([jnp.sum(jax.lax.population_count(a ^ b)) for a, b in pairs]))
