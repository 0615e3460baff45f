"""What `hypergradient`, `train`, `plan` and measurements are called with: checked once, brought to one form."""

from __future__ import annotations

import inspect
import operator
from dataclasses import fields
from reprlib import repr as short
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.engines.problem import Hyper, Params, Problem
from core.errors import InvalidProblem, X64Disabled
from core.reversal.optimizers import Optimizer

_CALLED_WITH = {
    "init": ("hyper", "key"),
    "inner_loss": ("params", "hyper", "step", "key"),
    "outer_loss": ("params", "hyper", "key"),
    "schedule": ("hyper",),
}


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
        num_steps: an integer of any kind, at least 1.
        key: a `jax.random.key`, a `PRNGKey`, or a vector of either.

    Raises:
        X64Disabled: JAX is in 32-bit mode.
        InvalidProblem: an argument is none of these; the message names it.
    """
    if not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise X64Disabled
    _check_functions(problem)
    if not isinstance(optimizer, Optimizer):
        raise InvalidProblem(f"optimizer is {optimizer!r}; give an Optimizer, like sgd()")
    steps, keys = _count(num_steps), typed(key)
    for name, tree in {"problem": problem, "hyper": hyper, "key": keys}.items():
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree)):
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
        function, wanted = getattr(problem, field.name), _CALLED_WITH[field.name]
        if not callable(function):
            raise InvalidProblem(
                f"problem.{field.name} is {short(function)}; give a function of ({', '.join(wanted)})"
            )
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            continue  # builtins do not tell theirs
        try:
            signature.bind(*wanted)
        except TypeError as error:
            raise InvalidProblem(
                f"problem.{field.name} takes {signature}, but is called with ({', '.join(wanted)}): {error}; "
                "let it take these"
            ) from None


def _count(num_steps: Any) -> int:
    if isinstance(num_steps, jax.core.Tracer):
        raise _traced("num_steps")
    try:
        steps = None if isinstance(num_steps, bool) else operator.index(num_steps)
    except TypeError:
        steps = None
    if steps is None:
        raise InvalidProblem(f"num_steps is {num_steps!r}, a {type(num_steps).__name__}; give an int, at least 1")
    if steps < 1:
        raise InvalidProblem(f"num_steps is {steps}; it must be at least 1")
    return steps


def at_least_one(name: str, value: Any) -> int:
    """An engine's argument that counts something.

    Raises:
        InvalidProblem: it is no whole number, or below 1.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        raise InvalidProblem(f"{name} is {value!r}; it must be a whole number, at least 1")
    return number


def finite_floats(hyper: Any) -> Hyper:
    """`hyper` with JAX arrays for leaves.

    Raises:
        InvalidProblem: a leaf does not hold finite floats.
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(hyper)
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


def check_start(run: Arguments) -> None:
    """Raise InvalidProblem where initial parameters are not finite; costs a run of `init`, so for what went wrong."""
    for key in [run.keys] if run.keys.ndim == 0 else list(run.keys):
        params = _initial(run.problem, run.hyper, key)
        paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
        for path, finite in zip(paths, _all_finite(jax.tree.leaves(params)), strict=True):
            if not finite:
                raise InvalidProblem(
                    f"init returned nan or infinity{_within(path)}; look for a log, root or division that made it"
                )


@jax.jit
def _initial(problem: Problem, hyper: Hyper, key: jax.Array) -> Params:
    """The initial parameters. To check their kind a trace is enough, which JAX makes once for each problem."""
    params = problem.init(hyper, key)
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
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
