"""Training in ordinary floats, for measurements that ask no engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp

from core.engines import Problem
from core.engines.arguments import checked
from core.engines.floating import dynamics
from core.engines.problem import Hyper, Params
from core.reversal.optimizers import Optimizer, State
from core.reversal.pace import Pace


def never() -> None:
    """Let work go on."""


@jax.jit
def norm(params: Params) -> jax.Array:
    """‖params‖₂ over all groups, in float64."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf.astype(jnp.float64))) for leaf in jax.tree.leaves(params)))


class FloatRun:
    """Training in ordinary floats, in pieces short enough to be interrupted between them."""

    def __init__(
        self,
        problem: Problem,
        hyper: Hyper,
        optimizer: Optimizer,
        num_steps: int,
        key: jax.Array,
        interrupt: Callable[[], None],
    ) -> None:
        run = checked(problem, hyper, optimizer, num_steps, key).one_run()
        self.problem, self.hyper, self.optimizer, self.num_steps, self.key = run
        self.interrupt = interrupt
        self.pace = Pace()

    def start(self, hyper: Hyper | None = None) -> State:
        """State that training begins in."""
        return _start(self.problem, self._at(hyper), self.key, self.optimizer, self.num_steps)

    def forward(self, state: State, start: int, stop: int, hyper: Hyper | None = None) -> State:
        """State after the steps [start, stop)."""
        for low, high in self.pace.timed(int(start), int(stop)):
            self.interrupt()
            state = jax.block_until_ready(
                _forward(self.problem, self._at(hyper), self.key, self.optimizer, self.num_steps, state, low, high)
            )
        return state

    def forward_through(self, state: State, steps: range) -> Iterator[State]:
        """State at each of `steps`, of which the first is that of `state`."""
        for start in steps:
            yield state
            if start + steps.step < steps.stop:
                state = self.forward(state, start, start + steps.step)

    def trained(self, hyper: Hyper) -> tuple[float, Params]:
        """Outer loss and weights at the end of training."""
        params = self.forward(self.start(hyper), 0, self.num_steps, hyper).position
        return float(_outer_loss(self.problem, params, hyper, self.key)), params

    def outer_adjoint(self, state: State) -> State:
        """Derivative of the outer loss with respect to the last state: all of it goes through the weights."""
        d_position = _outer_gradient(self.problem, state.position, self.hyper, self.key)
        return jax.tree.map(jnp.zeros_like, state)._replace(position=d_position)

    def pull_back(self, state: State, start: int, stop: int, adjoint: State) -> State:
        """Adjoint of the state before the steps [start, stop), which is `state`, from that after them."""
        self.interrupt()
        return jax.block_until_ready(
            _pull_back(
                self.problem,
                self.hyper,
                self.key,
                self.optimizer,
                self.num_steps,
                stop - start,
                state,
                start,
                adjoint,
            )
        )

    def _at(self, hyper: Hyper | None) -> Hyper:
        return self.hyper if hyper is None else hyper


@partial(jax.jit, static_argnames=("optimizer", "num_steps"))
def _start(problem: Problem, hyper: Hyper, key: jax.Array, optimizer: Optimizer, num_steps: int) -> State:
    return dynamics(problem, hyper, key, optimizer, num_steps)[0]


@partial(jax.jit, static_argnames=("optimizer", "num_steps"))
def _forward(
    problem: Problem,
    hyper: Hyper,
    key: jax.Array,
    optimizer: Optimizer,
    num_steps: int,
    state: State,
    start: int,
    stop: int,
) -> State:
    _, take = dynamics(problem, hyper, key, optimizer, num_steps)
    return jax.lax.fori_loop(start, stop, lambda step, state: take(state, step)[0], state)


@partial(jax.jit, static_argnames=("optimizer", "num_steps", "length"))
def _pull_back(
    problem: Problem,
    hyper: Hyper,
    key: jax.Array,
    optimizer: Optimizer,
    num_steps: int,
    length: int,
    state: State,
    start: int,
    adjoint: State,
) -> State:
    _, take = dynamics(problem, hyper, key, optimizer, num_steps)
    take = jax.checkpoint(take)  # keeps a state a step, not what the inner problem computes in it

    def advance(state: State) -> State:
        return jax.lax.scan(lambda state, step: (take(state, step)[0], None), state, start + jnp.arange(length))[0]

    return jax.vjp(advance, state)[1](adjoint)[0]


@jax.jit
def _outer_loss(problem: Problem, params: Params, hyper: Hyper, key: jax.Array) -> jax.Array:
    return problem.outer_loss(params, hyper, key)


@jax.jit
def _outer_gradient(problem: Problem, params: Params, hyper: Hyper, key: jax.Array) -> Params:
    return jax.grad(problem.outer_loss)(params, hyper, key)
