"""What `hypergradient`, `train`, `plan` and measurements are called with: checked once, brought to one form."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from reprlib import repr as short
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.callables import check_callable
from core.engines.engine import Engine
from core.engines.problem import Hyper, Params, Problem
from core.errors import FixedPointOverflow, InvalidProblem, UncertifiedGradient, X64Disabled
from core.reversal.contract import check_optimizer
from core.reversal.lifting import LIMIT
from core.reversal.optimizers import Optimizer
from core.trees import flattened

_CALLED_WITH = {
    "init": ("hyper", "key"),
    "inner_loss": ("params", "hyper", "step", "key"),
    "outer_loss": ("params", "hyper", "key"),
    "schedule": ("hyper",),
}
_MOST_STEPS = 2**31 - 1  # numbers of steps fit into 32 bits, signed or not, as keys are folded with them


class Arguments(NamedTuple):
    """A training run to be differentiated, or several."""

    problem: Problem
    hyper: Hyper  # leaves are JAX arrays of finite floats
    optimizer: Optimizer
    num_steps: int  # T, at least 1
    keys: jax.Array  # typed, [] or [S]

    def one_run(self) -> Arguments:
        """Itself.

        Raises:
            InvalidProblem: there are several keys.
        """
        if self.keys.ndim:
            raise InvalidProblem(f"key has shape {self.keys.shape}; give one key")
        return self


def checked(problem: Any, hyper: Any, optimizer: Any, num_steps: Any, key: Any) -> Arguments:
    """The arguments in the form that engines take.

    Args:
        problem: a `Problem`.
        hyper: pytree of finite floats, as arrays of any kind or as numbers.
        optimizer: an `Optimizer`.
        num_steps: an integer of any kind, at least 1 and below 2**31.
        key: a `jax.random.key`, a `PRNGKey`, or a vector of either.

    Raises:
        X64Disabled: JAX is in 32-bit mode.
        InvalidProblem: an argument is none of these; the message names it.
        InvalidOptimizer: a part of the optimizer is not what it must be.
    """
    if not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise X64Disabled
    _check_functions(problem)
    if not isinstance(optimizer, Optimizer):
        raise InvalidProblem(f"optimizer is {optimizer!r}; give an Optimizer, like sgd()")
    check_optimizer(optimizer)
    steps, keys = an_int("num_steps", num_steps, most=_MOST_STEPS), typed(key)
    for name, tree in {"problem": problem, "hyper": hyper, "key": keys}.items():
        if any(isinstance(leaf, jax.core.Tracer) for _, leaf in flattened(name, tree)[0]):
            raise _traced(name)
    hyper = finite_floats(hyper)
    _initial.eval_shape(problem, hyper, jax.ShapeDtypeStruct((), keys.dtype))
    return Arguments(problem, hyper, optimizer, steps, keys)


def typed(key: Any) -> jax.Array:
    """Typed keys, [] or [S], from typed or raw ones.

    Raises:
        InvalidProblem: `key` is neither one key nor a vector of some.
    """
    if not isinstance(key, jax.Array | np.ndarray):
        raise InvalidProblem(
            f"key is {short(key)}; give a jax.random.key, or a vector of them by jax.random.split or jnp.stack"
        )
    keys = jnp.asarray(key)
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        try:
            keys = jax.random.wrap_key_data(keys)
        except TypeError:
            raise InvalidProblem(
                f"key is an array of {key.dtype} and shape {key.shape}; give a jax.random.key, or a vector of them by "
                "jax.random.split"
            ) from None
    if keys.ndim > 1 or keys.size == 0:
        raise InvalidProblem(f"key has shape {keys.shape}; give one key or a non-empty vector of keys")
    return keys


def _check_functions(problem: Any) -> None:
    if not isinstance(problem, Problem):
        raise InvalidProblem(
            f"problem is {short(problem)}; give a Problem of the functions init, inner_loss, outer_loss and schedule"
        )
    for field in fields(problem):
        check_callable(
            f"problem.{field.name}", getattr(problem, field.name), _CALLED_WITH[field.name], InvalidProblem
        )


def an_int(name: str, value: Any, *, least: int = 1, most: int | None = None) -> int:
    """An argument that counts something, as an int of Python.

    Raises:
        InvalidProblem: it is no integer, or out of range.
    """
    if isinstance(value, jax.core.Tracer):
        raise _traced(name)
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise InvalidProblem(f"{name} is {value!r}, a {type(value).__name__}; give an int, at least {least}")
    if number < least:
        raise InvalidProblem(f"{name} is {number}; it must be at least {least}")
    if most is not None and number > most:
        raise InvalidProblem(f"{name} is {number}; it must be at most {most}")
    return number


def an_engine(name: str, value: Any, like: str = "reversible()") -> Engine:
    """An argument that is an engine.

    Raises:
        InvalidProblem: it is none, or one not called yet.
    """
    if isinstance(value, type) or not callable(getattr(value, "many", None)):
        remedy = f"call it: {like}" if callable(value) else f"give an engine, like {like}"
        raise InvalidProblem(f"{name} is {getattr(value, '__name__', None) or short(value)}; {remedy}")
    return value


def finite_floats(hyper: Any) -> Hyper:
    """`hyper` with JAX arrays for leaves.

    Raises:
        InvalidProblem: a leaf does not hold finite floats.
    """
    paths, treedef = flattened("hyper", hyper)
    names = [f"hyper{jax.tree_util.keystr(path)}" for path, _ in paths]
    leaves = []
    for name, (_, given) in zip(names, paths, strict=True):
        try:
            leaf = jnp.asarray(given)
        except (TypeError, ValueError, OverflowError):
            raise InvalidProblem(
                f"{name} must hold finite floats, not {short(given)} ({type(given).__name__}); close over what is no "
                "hyperparameter"
            ) from None
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise InvalidProblem(
                f"{name} must hold finite floats (dtype {leaf.dtype}); convert it with astype(float), or close over it"
            )
        leaves.append(leaf)
    found = _all_finite(leaves)
    if any(isinstance(finite, jax.core.Tracer) for finite in found):
        raise _traced("hyper")  # concrete outside jit, but not within
    for name, leaf, finite in zip(names, leaves, jax.device_get(found), strict=True):
        if not finite:
            raise InvalidProblem(
                f"{name} must hold finite floats (dtype {leaf.dtype}); it holds nan or infinity, which an earlier "
                "update or a log of 0 may have made"
            )
    return treedef.unflatten(leaves)


@jax.jit
def _all_finite(leaves: list[jax.Array]) -> list[jax.Array]:
    return [jnp.isfinite(leaf).all() for leaf in leaves]


@contextmanager
def start_blamed(run: Arguments) -> Iterator[None]:
    """Where training diverges within, or its gradient cannot be certified, say so if initial weights are the reason.

    That costs a run of `init`, so it is for what went wrong.

    Raises:
        InvalidProblem: initial weights are not finite, or beyond the range that training has.
    """
    try:
        yield
    except (FixedPointOverflow, UncertifiedGradient):
        for key in [run.keys] if run.keys.ndim == 0 else list(run.keys):
            _check_start(_initial(run.problem, run.hyper, key))
        raise


def _check_start(params: Params) -> None:
    paths, _ = flattened("what init returned", params)
    found = jax.device_get([(jnp.isfinite(leaf).all(), jnp.max(jnp.abs(leaf), initial=0)) for _, leaf in paths])
    for (path, _), (finite, largest) in zip(paths, found, strict=True):
        if not finite:
            raise InvalidProblem(
                f"init returned nan or infinity{_within(path)}; look for a log, root or division that made it"
            )
        if largest >= LIMIT:
            raise InvalidProblem(
                f"init returned weights of up to {largest:.4g}{_within(path)}, outside the range ±{LIMIT:.0f} that "
                "weights have; begin with smaller ones, which the losses may scale up"
            )


@jax.jit
def _initial(problem: Problem, hyper: Hyper, key: jax.Array) -> Params:
    """The initial parameters. To check their kind a trace is enough, which JAX makes once for each problem."""
    params = problem.init(hyper, key)
    for path, leaf in flattened("what init returned", params)[0]:
        if not isinstance(leaf, jax.Array | np.ndarray):
            raise InvalidProblem(
                f"init must return a pytree of float32 or float64 arrays, not {short(leaf)}{_within(path)}, a "
                f"{type(leaf).__name__}; make it one with jnp.asarray"
            )
    return params


def _within(path: Any) -> str:
    return f" in {jax.tree_util.keystr(path)}" if path else ""


def _traced(name: str) -> InvalidProblem:
    return InvalidProblem(
        f"{name} is traced: a hypergradient drives compiled programs of its own and cannot be part of another; call it "
        "outside jax.jit, grad, vmap and scan, with concrete arrays"
    )
