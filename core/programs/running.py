"""A program as a `Problem`: ordinary functions, whose derivatives are the exported ones.

    d init_loss = ⟨G, dw⟩            G = inner_gradient           (a custom derivative of inner_loss)
    d G         = ∇²L · dw           inner_linearized, then inner_product   (a custom derivative of G)

Second-order products are symmetric, so one function serves both directions, and every engine that goes backward works.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap
from jax.custom_derivatives import SymbolicZero
from jax.tree_util import Partial

from core.engines.problem import Problem
from core.errors import InvalidProblem
from core.programs import archive
from core.programs.archive import Archive
from core.programs.flat import structs
from core.programs.linear import Linear, unavailable
from core.programs.looking import looked_at
from core.programs.manifest import KEY_SHAPE, Function, Manifest
from core.programs.signatures import signatures

Arrays = list[jax.Array]
Hyper = dict[str, jax.Array]

_KEPT = 4  # programs whose compilations a warm worker may find again


class Program:
    """A program, ready to be run. Keep the object: it is what compilations are found by.

    Attributes:
        manifest: what it says of itself.
        initial: where its hyperparameters start.
        sha256: of its archive.
    """

    def __init__(self, found: Archive, exported: dict[str, jax.export.Exported]) -> None:
        self.manifest: Manifest = found.manifest
        self.initial: dict[str, np.ndarray] = found.hyper
        self.sha256 = found.sha256
        # exported functions are for one run: several go one after another
        self._calls = {
            name: sequential_vmap(one.call) if one.in_avals else one.call for name, one in exported.items()
        }
        self._num_params = len(self.manifest.params)
        shapes = {
            name: (tuple(structs(one.inputs)), tuple(structs(one.outputs)))
            for name, one in signatures(self.manifest).items()
        }
        params = tuple(structs(self.manifest.params))
        read = tuple(structs(self.manifest.reading("inner_loss")))
        missing = unavailable("second derivative along hyperparameters")
        self._second = Linear(self._product, missing, params, (*params, *read))
        self._second_of_params = Linear(self._params_product, self._params_product, params, params)
        self._mixed = Linear(missing, self._product, (*params, *read), params)
        self._init_map = self._pullback("init", shapes)
        self._schedule_map = self._pullback("schedule", shapes)

        self._loss_at = _differentiable(self._loss_primal, self._loss_tangent)
        self._gradient_at = _differentiable(self._gradient_primal, self._gradient_tangent)
        self._gradients_at = _differentiable(self._gradients_primal, self._gradients_tangent)
        self._outer_at = _differentiable(self._outer_primal, self._outer_tangent)
        self._init_at = _differentiable(self._init_primal, self._init_tangent)
        self._schedule_at = _differentiable(self._schedule_primal, self._schedule_tangent)

    # as a Problem has them: `bound` holds the data, and hyperparameters that are given once and for all

    def init(self, bound: Any, hyper: Hyper, key: jax.Array) -> OrderedDict[str, jax.Array]:
        """See `Problem`."""
        leaves = self._init_at(self._read("init", bound, hyper), (_key_data(key),))
        return OrderedDict(zip((leaf.name for leaf in self.manifest.params), leaves, strict=True))

    def inner_loss(self, bound: Any, params: Any, hyper: Hyper, step: jax.Array, key: jax.Array) -> jax.Array:
        """See `Problem`."""
        rest = (*bound["data"], jnp.asarray(step, jnp.int64), _key_data(key))
        found: Arrays = self._loss_at([*params.values(), *self._read("inner_loss", bound, hyper)], rest)
        return found[0]

    def outer_loss(self, bound: Any, params: Any, hyper: Hyper, key: jax.Array) -> jax.Array:
        """See `Problem`."""
        rest = (*bound["data"], _key_data(key))
        found: Arrays = self._outer_at([*params.values(), *self._read("outer_loss", bound, hyper)], rest)
        return found[0]

    def schedule(self, bound: Any, hyper: Hyper) -> dict[str, Any]:
        """See `Problem`. What depends on no leaf of `hyper` is computed without it, for engines to see that."""
        entries = self.manifest.schedule
        reading = [entry for entry in entries if entry.reads]
        learned: Arrays = self._schedule_at(self._read("schedule", bound, hyper), ()) if reading else []
        fixed: Arrays = self._calls["schedule_fixed"]() if len(reading) < len(entries) else []
        unlearned: Arrays = []
        if any(set(entry.reads).isdisjoint(hyper) for entry in reading):
            elsewhere = {name: jnp.asarray(self.initial[name]) for name in hyper}
            unlearned = self._calls["schedule"](*self._read("schedule", bound, elsewhere))
        found, at, at_fixed = {}, 0, 0
        for entry in entries:
            count = len(entry.arrays)
            if entry.reads:
                source = unlearned if set(entry.reads).isdisjoint(hyper) else learned
                leaves, at = source[at : at + count], at + count
            else:
                leaves, at_fixed = fixed[at_fixed : at_fixed + count], at_fixed + count
            names = [leaf.name for leaf in self.manifest.params]
            found[entry.name] = OrderedDict(zip(names, leaves, strict=True)) if entry.by_weight else leaves[0]
        return found

    def metrics(self, bound: Any, params: Any, hyper: Hyper, key: jax.Array) -> dict[str, jax.Array]:
        """What the program measures of trained parameters, by name."""
        if not self.manifest.metrics:
            return {}
        read = self._read("metrics", bound, hyper)
        found = self._calls["metrics"](*params.values(), *read, *bound["data"], _key_data(key))
        return dict(zip(self.manifest.metrics, found, strict=True))

    def _read(self, function: Function, bound: Any, hyper: Hyper) -> Arrays:
        """The leaves that a function takes, in the types that it takes them in."""
        found = []
        for leaf in self.manifest.reading(function):
            value = hyper[leaf.name] if leaf.name in hyper else bound["fixed"].get(leaf.name)
            if value is None or jnp.shape(value) != leaf.shape:
                has = "is missing" if value is None else f"has shape {jnp.shape(value)}, not {leaf.shape}"
                raise InvalidProblem(
                    f"hyper[{leaf.name!r}] {has}; start from `problem_of(…).initial` of the program"
                )
            found.append(jnp.asarray(value).astype(leaf.dtype))
        return found

    # custom derivatives: functions of (what has tangents, what has none), both flat, and tangents of the former

    def _loss_primal(self, taken: Arrays, rest: Arrays) -> Arrays:
        found: Arrays = self._calls["inner_loss"](*taken, *rest)
        return found

    def _loss_tangent(self, taken: Arrays, rest: Arrays, along: list[Any]) -> Any:
        whole = any(not _is_zero(one) for one in along[self._num_params :])
        gradient = (self._gradients_at if whole else self._gradient_at)(taken, rest)
        return self._loss_at(taken, rest), [_inner_product(gradient, along, self.manifest.losses["inner_loss"])]

    def _gradient_primal(self, taken: Arrays, rest: Arrays) -> Arrays:
        found: Arrays = self._calls["inner_gradient"](*taken, *rest)
        return found

    def _gradient_tangent(self, taken: Arrays, rest: Arrays, along: list[Any]) -> Any:
        found, residuals = self._linearized(taken, rest)
        count = self._num_params
        if all(_is_zero(one) for one in along[count:]):
            return found[:count], self._second_of_params(residuals, _filled(along, taken)[:count])
        return found[:count], self._mixed(residuals, _filled(along, taken))

    def _gradients_primal(self, taken: Arrays, rest: Arrays) -> Arrays:
        return self._linearized(taken, rest)[0]

    def _gradients_tangent(self, taken: Arrays, rest: Arrays, along: list[Any]) -> Any:
        found, residuals = self._linearized(taken, rest)
        if any(not _is_zero(one) for one in along[self._num_params :]):
            raise InvalidProblem(
                "an exported program has no second derivative along hyperparameters alone; choose another engine, such "
                "as reversible()"
            )
        return found, self._second(residuals, _filled(along, taken)[: self._num_params])

    def _linearized(self, taken: Arrays, rest: Arrays) -> tuple[Arrays, Arrays]:
        found: Arrays = self._calls["inner_linearized"](*taken, *rest)
        return found[: len(taken)], found[len(taken) :]

    def _product(self, residuals: Arrays, direction: Arrays) -> Arrays:
        found: Arrays = self._calls["inner_product"](*residuals, *direction)
        return found

    def _params_product(self, residuals: Arrays, direction: Arrays) -> Arrays:
        return self._product(residuals, direction)[: self._num_params]

    def _outer_primal(self, taken: Arrays, rest: Arrays) -> Arrays:
        found: Arrays = self._calls["outer_loss"](*taken, *rest)
        return found

    def _outer_tangent(self, taken: Arrays, rest: Arrays, along: list[Any]) -> Any:
        value, *gradient = self._calls["outer_gradient"](*taken, *rest)
        return [value], [_inner_product(gradient, along, self.manifest.losses["outer_loss"])]

    def _init_primal(self, taken: Arrays, rest: Arrays) -> Arrays:
        found: Arrays = self._calls["init"](*taken, *rest)
        return found

    def _init_tangent(self, taken: Arrays, rest: Arrays, along: list[Any]) -> Any:
        return self._init_at(taken, rest), self._init_map([*taken, *rest], _filled(along, taken))

    def _schedule_primal(self, taken: Arrays, rest: Arrays) -> Arrays:
        found: Arrays = self._calls["schedule"](*taken)
        return found

    def _schedule_tangent(self, taken: Arrays, rest: Arrays, along: list[Any]) -> Any:
        return self._schedule_at(taken, rest), self._schedule_map(taken, _filled(along, taken))

    def _pullback(self, function: Function, shapes: dict[str, Any]) -> Any:
        """The linear map whose transpose was exported, as there is nothing that needs the map itself."""
        if f"{function}_pullback" not in shapes:
            return None
        backward = partial(_called, self._calls[f"{function}_pullback"])
        read = tuple(structs(self.manifest.reading(function)))
        return Linear(unavailable(f"tangent of {function}"), backward, read, shapes[function][1])


_loaded: OrderedDict[str, Program] = OrderedDict()


def load(content: bytes) -> Program:
    """The program of an archive; the same object for the same archive, while it is in use.

    Raises:
        InvalidProgram: damaged, or not to be run: see `core.programs.looking`.
    """
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 not in _loaded:
        found = archive.read(content)
        _loaded[sha256] = Program(found, looked_at(found))
        if len(_loaded) > _KEPT:
            _loaded.popitem(last=False)
    _loaded.move_to_end(sha256)
    return _loaded[sha256]


def problem_of(
    program: Program | bytes,
    data: dict[str, dict[str, Any]] | None = None,
    fixed: dict[str, Any] | None = None,
) -> Problem:
    """The problem of a program. Its hyperparameters are a dict of arrays by name, its parameters an `OrderedDict`.

    Args:
        program: as loaded, or its archive.
        data: arrays for each data set that the program takes: {name: {name: array}}.
        fixed: hyperparameters that are not differentiated; `hyper` holds the others.

    Raises:
        InvalidProgram: see `load`.
        InvalidProblem: data that do not fit.
    """
    if not isinstance(program, Program):
        program = load(program)
    bound = {
        "data": tuple(_data(program.manifest, data or {})),
        "fixed": {name: jnp.asarray(value) for name, value in (fixed or {}).items()},
    }
    return Problem(
        init=Partial(program.init, bound),
        inner_loss=Partial(program.inner_loss, bound),
        outer_loss=Partial(program.outer_loss, bound),
        schedule=Partial(program.schedule, bound),
    )


def _data(manifest: Manifest, given: dict[str, dict[str, Any]]) -> list[jax.Array]:
    """Arrays in the order of the manifest."""
    found = []
    for name, leaves in manifest.data.items():
        for leaf in leaves:
            value = given.get(name, {}).get(leaf.name)
            if value is None or jnp.shape(value) != leaf.shape:
                has = "is missing" if value is None else f"has shape {jnp.shape(value)}"
                raise InvalidProblem(f"data[{name!r}][{leaf.name!r}] {has}; the program takes {leaf.shape}")
            found.append(jnp.asarray(value, leaf.dtype))
    return found


def _differentiable(primal: Callable[..., Arrays], tangent: Callable[..., Any]) -> Callable[..., Arrays]:
    """A function of (arrays with tangents, arrays without) whose derivative is `tangent`."""
    function = jax.custom_jvp(lambda taken, rest: primal(list(taken), list(rest)))

    @partial(function.defjvp, symbolic_zeros=True)
    def _(primals: Any, tangents: Any) -> Any:
        taken, rest = primals
        if any(not _is_zero(one) and one.dtype != jax.dtypes.float0 for one in tangents[1]):
            raise InvalidProblem(
                "an exported program has no derivatives along its data; differentiate hyperparameters"
            )
        return tangent(list(taken), list(rest), list(tangents[0]))

    return lambda taken, rest: function(list(taken), list(rest))


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero)


def _filled(along: list[Any], like: Sequence[jax.Array]) -> Arrays:
    """Tangents, with zeros where there are none."""
    return [jnp.zeros(one.shape, one.dtype) if _is_zero(t) else t for t, one in zip(along, like, strict=True)]


def _inner_product(gradient: Arrays, along: list[Any], dtype: str) -> jax.Array:
    """Σ ⟨g, d⟩ over the directions that there are."""
    terms = [jnp.sum(g * d).astype(dtype) for g, d in zip(gradient, along, strict=False) if not _is_zero(d)]
    return sum(terms[1:], terms[0])


def _called(function: Callable[..., Arrays], residuals: Arrays, operands: Arrays) -> Arrays:
    return function(*residuals, *operands)


def _key_data(key: jax.Array) -> jax.Array:
    data = jax.random.key_data(key)
    if data.shape != KEY_SHAPE:
        raise InvalidProblem(f"key has data of shape {data.shape}, not {KEY_SHAPE}; give a jax.random.key(seed)")
    return data
