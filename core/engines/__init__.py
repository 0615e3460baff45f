"""Engines that give d(outer loss) / d(hyperparameters), behind one call."""

from __future__ import annotations

import jax
import jax.numpy as jnp

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
from core.errors import InvalidProblem, X64Disabled
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
        num_steps: T, steps of one training run.
        key: a `jax.random.key`, or a vector of them, over which value and gradient are averaged; the reversible engine
            takes their runs to all devices of the process.
        engine: `reversible()` unless told otherwise.

    Raises:
        X64Disabled: JAX is in 32-bit mode.
        InvalidProblem: an argument that cannot be trained as given; the message names it.
        FixedPointOverflow: training diverged.
        UncertifiedGradient: the inner loss is not deterministic.
    """
    if not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise X64Disabled
    if not isinstance(optimizer, Optimizer):
        raise InvalidProblem(f"optimizer is {optimizer!r}; give an Optimizer, like sgd()")
    if num_steps < 1:
        raise InvalidProblem(f"num_steps is {num_steps}; it must be at least 1")
    hyper = jax.tree.map(jnp.asarray, hyper)
    for path, leaf in jax.tree_util.tree_flatten_with_path(hyper)[0]:
        if not jnp.issubdtype(leaf.dtype, jnp.floating) or not bool(jnp.isfinite(leaf).all()):
            raise InvalidProblem(f"hyper{jax.tree_util.keystr(path)} must hold finite floats (dtype {leaf.dtype})")
    engine = engine or reversible()
    keys = _as_keys(key)
    if keys.ndim == 0:
        return engine.many(problem, hyper, optimizer, num_steps, keys)[0]
    runs = engine.many(problem, hyper, optimizer, num_steps, keys)
    return Hypergradient(
        value=jnp.mean(jnp.stack([run.value for run in runs])),
        gradient=jax.tree.map(
            lambda *leaves: sum(leaves[1:], leaves[0]) / len(leaves), *[run.gradient for run in runs]
        ),
        params=[run.params for run in runs],
        certificate=merged([run.certificate for run in runs]),
    )


def _as_keys(key: jax.Array) -> jax.Array:
    """Typed keys, [] or [S], from typed or raw ones."""
    typed = key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)
    if typed.ndim > 1 or typed.size == 0:
        raise InvalidProblem(f"key has shape {typed.shape}; give one key or a non-empty vector of keys")
    return typed
