"""Engines that give d(outer loss) / d(hyperparameters), behind one call."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from core.engines.arguments import an_engine, checked, start_blamed
from core.engines.certificate import Certificate, merged
from core.engines.checkpointed import checkpointed
from core.engines.engine import Engine, Memory
from core.engines.forward_mode import forward_mode
from core.engines.implicit import implicit
from core.engines.planner import EnginePlan, Prediction, automatic, plan
from core.engines.problem import Hyper, Problem
from core.engines.result import Hypergradient
from core.engines.reversible import hybrid, reversible
from core.engines.truncated import truncated
from core.engines.unrolled import unrolled
from core.errors import NotFinite
from core.reversal.optimizers import Optimizer, adam, adamw, heavy_ball, nesterov, rmsprop, sgd

__all__ = [
    "Certificate",
    "Engine",
    "EnginePlan",
    "Hypergradient",
    "Memory",
    "Prediction",
    "Problem",
    "adam",
    "adamw",
    "automatic",
    "checkpointed",
    "forward_mode",
    "heavy_ball",
    "hybrid",
    "hypergradient",
    "implicit",
    "nesterov",
    "plan",
    "reversible",
    "rmsprop",
    "sgd",
    "truncated",
    "unrolled",
]


def hypergradient(
    problem: Problem,
    hyper: Hyper,
    *,
    optimizer: Optimizer,
    num_steps: int,
    key: jax.Array,
    engine: Engine | None = None,
) -> Hypergradient:
    """Exact gradient of the outer loss after training, with respect to everything that training depends on.

    Args:
        problem: inner and outer problem. Keep the object between calls: it is what compilations are found by.
        hyper: pytree of float arrays.
        optimizer: e.g. `sgd()`.
        num_steps: T, steps of one training run; at least 1 and below 2**31.
        key: a `jax.random.key`, or a vector of them, over which value and gradient are averaged; the reversible engine
            takes their runs to all devices of the process.
        engine: `reversible()` unless told otherwise.

    Raises:
        X64Disabled: JAX is in 32-bit mode.
        InvalidProblem: an argument that cannot be trained as given; the message names it.
        InvalidOptimizer: an optimizer of your own whose parts or functions are not what they must be.
        FixedPointOverflow: training diverged.
        NotFinite: training did not, but the outer loss or the norm of its gradient is no finite number.
        UncertifiedGradient: the inner loss is not deterministic, or the optimizer's unstep does not undo its step.
        SolverFailed: training with the implicit engine did not come to a strict minimum, or its system was not solved.
        OutOfDisk: the folder that bits are spilled to has no room left.
    """
    run = checked(problem, hyper, optimizer, num_steps, key)
    engine = reversible() if engine is None else an_engine("engine", engine)
    with start_blamed(run):
        results = engine.many(*run)
    found = _mean(results) if run.keys.ndim else results[0]
    value, norm = (float(number) for number in jax.device_get((found.value, _norm(found.gradient))))
    if not (math.isfinite(value) and math.isfinite(norm)):
        raise NotFinite(value=value, norm=norm)
    return found


def _mean(runs: list[Hypergradient]) -> Hypergradient:
    return Hypergradient(
        value=jnp.mean(jnp.stack([run.value for run in runs])),
        gradient=jax.tree.map(
            lambda *leaves: sum(leaves[1:], leaves[0]) / len(leaves), *[run.gradient for run in runs]
        ),
        params=[run.params for run in runs],
        certificate=merged([run.certificate for run in runs]),
    )


@jax.jit
def _norm(gradient: Hyper) -> jax.Array:
    """In float64, whose range squares of float32 do not leave."""
    squares = [jnp.sum(jnp.square(leaf.astype(jnp.float64))) for leaf in jax.tree.leaves(gradient)]
    return jnp.sqrt(sum(squares, jnp.zeros(())))
