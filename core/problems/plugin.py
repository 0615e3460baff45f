"""The inner problem of a job about a kind of problem that a package brings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from core import plugins
from core.engines import Problem
from core.engines.problem import group_names
from core.hyperparameters import Group
from core.own_problems import GivenOwn, check_given
from core.plugins import Described
from core.problems.own import OwnInner, fixed, started
from core.spec import JobSpec, PluginProblem

_HYPER_AT = {"init": 0, "inner_loss": 1, "outer_loss": 1, "schedule": 0, "metrics": 1}
"""Place of the hyperparameters among the arguments of each function."""


def plugin_inner(spec: JobSpec, given: GivenOwn) -> OwnInner:
    """The inner problem that a specification asks for.

    Raises:
        InvalidSpec: its kind is not installed here, in another version, or not of such settings or data.
        PluginFailed: the kind failed.
    """
    problem = spec.plugin
    assert problem is not None  # noqa: S101 - for the type checker
    digests = check_given(spec, given)
    described = plugins.describe(spec, {name: one.info for name, one in given.data.items()})
    pinned = spec.pinned_own(described.shapes, digests, version=described.version)
    layouts = started(pinned, described.groups, described.initial)
    made, metrics = plugins.told(problem, lambda: _made(described, given))
    held = {name: jnp.asarray(values) for name, values in fixed(layouts).items()}
    bound = partial(_bound, problem, held)
    bound_problem = Problem(*(bound(field.name, getattr(made, field.name)) for field in fields(Problem)))
    plugins.blamed(problem, lambda: _check_params(bound_problem, described))
    return OwnInner(pinned, described.groups, layouts, bound_problem, bound("metrics", _Measured(metrics)))


def _made(described: Described, given: GivenOwn) -> tuple[Problem, Callable[..., Any] | None]:
    made = described.kind.problem(described.asked, given.data)
    if not isinstance(made, Problem):
        raise TypeError(f"problem returned a {type(made).__name__}; return a retrograd.Problem")
    return made, described.kind.metrics(described.asked, given.data)


def _check_params(problem: Problem, described: Described) -> None:
    """What `init` returns is what the kind has announced: results are stored and drawn by it."""
    hyper = {name: jax.ShapeDtypeStruct(one.shape, jnp.float64) for name, one in described.initial.items()}
    params = jax.eval_shape(problem.init, hyper, jax.eval_shape(lambda: jax.random.key(0)))
    leaves = [leaf.shape for leaf in jax.tree.leaves(params)]
    found = tuple(Group(name, shape) for name, shape in zip(group_names(params), leaves, strict=True))
    if found != described.groups:
        raise TypeError(f"init returns {_listed(found)}, and params has announced {_listed(described.groups)}")


def _listed(groups: tuple[Group, ...]) -> str:
    return ", ".join(f"{group.name} {list(group.shape)}" for group in groups)


@dataclass(frozen=True)
class _Measured:
    """The package's metrics, as numbers by name."""

    metrics: Callable[..., Any] | None

    def __call__(self, params: Any, hyper: Any, key: jax.Array) -> dict[str, float]:
        found = {} if self.metrics is None else self.metrics(params, hyper, key)
        return {str(name): float(value) for name, value in found.items()}


@dataclass(frozen=True)
class _Bound:
    """A function of the package, which gets the hyperparameters that are not learned as well, and is blamed."""

    problem: PluginProblem
    function: Callable[..., Any]
    hyper_at: int  # among its own arguments, those that it came bound with included

    def __call__(self, held: dict[str, jax.Array], *arguments: Any) -> Any:
        given = list(arguments)
        given[self.hyper_at] = held | given[self.hyper_at]
        return plugins.blamed(self.problem, lambda: self.function(*given))

    def __hash__(self) -> int:
        return hash((self.problem.name, self.function, self.hyper_at))


def _bound(problem: PluginProblem, held: dict[str, jax.Array], name: str, function: Callable[..., Any]) -> Partial:
    before: tuple[Any, ...] = ()
    if isinstance(function, Partial) and not cast(Any, function).keywords:
        before, function = cast(Any, function).args, cast(Any, function).func
    return Partial(_Bound(problem, function, len(before) + _HYPER_AT[name]), held, *before)
