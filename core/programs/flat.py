"""A problem's functions and their derivatives on flat lists of arrays, as `core.programs.signatures` has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from core.engines.problem import group_names
from core.errors import InvalidProblem
from core.programs.manifest import FORMAT, Array
from core.reversal.dependence import depending_outputs, read_inputs

IMPLEMENTATION = "threefry2x32"
"""Of the random numbers that a program draws: the one that jobs have keys of."""

TAKES = {
    "init": ("hyper", "key"),
    "inner_loss": ("data", "params", "hyper", "step", "key"),
    "outer_loss": ("data", "params", "hyper", "key"),
    "schedule": ("hyper",),
    "metrics": ("data", "params", "hyper", "key"),
}
"""Arguments of the user's functions; those of problems without data take none."""


class Source(NamedTuple):
    """A problem that is being exported."""

    functions: dict[str, Callable[..., Any]]
    hyper: dict[str, jax.Array]  # by name, in the order of its leaves
    hyper_tree: Any
    params: Any  # shapes
    data: dict[str, dict[str, jax.ShapeDtypeStruct]] | None
    num_steps: int
    platforms: tuple[str, ...]

    def call(self, function: str, given: dict[str, Any]) -> Any:
        """A user's function, of all that functions may take."""
        wanted = [name for name in TAKES[function] if name != "data" or self.data is not None]
        return self.functions[function](*[given[name] for name in wanted])


class Flat:
    """The functions of a source. `inner_linearized` must be traced before `inner_product`, which goes on from it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._num_params = len(jax.tree.leaves(source.params))
        self.reads = {name: self._reads(name) for name in source.functions if name != "schedule"}
        self.entries = self._entries()
        of_entries = {name for entry in self.entries for name in entry["reads"]}
        self.reads["schedule"] = [name for name in source.hyper if name in of_entries]
        self._pushforward: Any = None
        self.metric_names = self._metric_names()

    def facts(self) -> dict[str, Any]:
        """What the manifest says but for residuals."""
        source = self.source
        params = zip(group_names(source.params), jax.tree.leaves(source.params), strict=True)
        return {
            "format": FORMAT,
            "jax_version": jax.__version__,
            "calling_convention": jax.config.jax_export_calling_convention_version,  # type: ignore[attr-defined]
            "platforms": source.platforms,
            "num_steps": source.num_steps,
            "params": [{"name": name} | described(leaf) for name, leaf in params],
            "hyper": [{"name": name} | described(leaf) for name, leaf in source.hyper.items()],
            "data": {
                name: [{"name": one} | described(leaf) for one, leaf in arrays.items()]
                for name, arrays in (source.data or {}).items()
            },
            "schedule": self.entries,
            "metrics": self.metric_names,
            "reads": self.reads,
            "losses": {name: self._evaluated(name).dtype.name for name in ("inner_loss", "outer_loss")},
        }

    def residuals(self, inputs: Sequence[Array]) -> list[dict[str, Any]]:
        """What `inner_linearized` leaves, of these inputs."""
        results = jax.eval_shape(self.inner_linearized, *structs(inputs))
        return [described(leaf) for leaf in results[self._num_params + len(self.reads["inner_loss"]) :]]

    # what is exported, in the order of `signatures`

    def init(self, *flat: Any) -> list[Any]:
        *read, key = flat
        return jax.tree.leaves(self.source.call("init", {"hyper": self._hyper("init", read), "key": _key(key)}))

    def init_pullback(self, *flat: Any) -> list[Any]:
        count = len(self.reads["init"])
        read, key, cotangents = flat[:count], flat[count], flat[count + 1 :]
        return list(jax.vjp(lambda *read: self.init(*read, key), *read)[1](list(cotangents)))

    def inner_loss(self, *flat: Any) -> list[Any]:
        return [self._called("inner_loss", flat)]

    def inner_gradient(self, *flat: Any) -> list[Any]:
        params, rest = flat[: self._num_params], flat[self._num_params :]
        return list(jax.grad(lambda params: self._called("inner_loss", (*params, *rest)))(params))

    def inner_linearized(self, *flat: Any) -> list[Any]:
        params, rest = flat[: self._num_params], flat[self._num_params :]
        gradients, push = jax.linearize(lambda params: self._gradients("inner_loss", (*params, *rest)), params)
        residuals, tree = jax.tree.flatten(push)
        residuals = [jnp.asarray(one) for one in residuals]
        self._pushforward = tree, [_implementation(one) for one in residuals]
        plain = [one if _implementation(one) is None else jax.random.key_data(one) for one in residuals]
        return [*gradients, *plain]

    def inner_product(self, *flat: Any) -> list[Any]:
        tree, implementations = self._pushforward
        count = len(implementations)
        residuals = [
            one if implementation is None else jax.random.wrap_key_data(one, impl=implementation)
            for one, implementation in zip(flat[:count], implementations, strict=True)
        ]
        return list(tree.unflatten(residuals)(flat[count:]))

    def outer_loss(self, *flat: Any) -> list[Any]:
        return [self._called("outer_loss", flat)]

    def outer_gradient(self, *flat: Any) -> list[Any]:
        count = self._num_params + len(self.reads["outer_loss"])
        taken, rest = flat[:count], flat[count:]
        value, gradients = jax.value_and_grad(lambda taken: self._called("outer_loss", (*taken, *rest)))(taken)
        return [value, *gradients]

    def schedule(self, *flat: Any) -> list[Any]:
        return self._scheduled(flat, fixed=False)

    def schedule_pullback(self, *flat: Any) -> list[Any]:
        count = len(self.reads["schedule"])
        return list(jax.vjp(self.schedule, *flat[:count])[1](list(flat[count:])))

    def schedule_fixed(self) -> list[Any]:
        return self._scheduled(
            [jnp.zeros_like(self.source.hyper[name]) for name in self.reads["schedule"]], fixed=True
        )

    def metrics(self, *flat: Any) -> list[Any]:
        found = self._called("metrics", flat)
        return [jnp.asarray(found[name]).astype(jnp.float64) for name in self.metric_names]

    # what they share

    def _hyper(self, function: str, read: Sequence[Any]) -> Any:
        """All hyperparameters, of which those that the function does not read are zero."""
        given = dict(zip(self.reads[function], read, strict=True))
        leaves = [
            given[name] if name in given else jnp.zeros_like(leaf) for name, leaf in self.source.hyper.items()
        ]
        return self.source.hyper_tree.unflatten(leaves)

    def _called(self, function: str, flat: Sequence[Any]) -> Any:
        """P H D [S] K → what the user's function returns."""
        parts = iter(flat)
        given = {
            "params": jax.tree.structure(self.source.params).unflatten(
                [next(parts) for _ in range(self._num_params)]
            ),
            "hyper": self._hyper(function, [next(parts) for _ in self.reads[function]]),
            "data": {
                name: {one: next(parts) for one in arrays} for name, arrays in (self.source.data or {}).items()
            },
        }
        *step, key = parts
        return self.source.call(function, given | {"step": step[0] if step else None, "key": _key(key)})

    def _gradients(self, function: str, flat: Sequence[Any]) -> list[Any]:
        """With respect to P and H."""
        count = self._num_params + len(self.reads[function])
        taken, rest = flat[:count], flat[count:]
        return list(jax.grad(lambda taken: self._called(function, (*taken, *rest)))(taken))

    def _scheduled(self, read: Sequence[Any], *, fixed: bool) -> list[Any]:
        """The entries that read no hyperparameters, or those that do, in one list."""
        found = self.source.call("schedule", {"hyper": self._hyper("schedule", read)})
        return [
            _real(leaf)
            for entry in self.entries
            if bool(entry["reads"]) != fixed
            for leaf in jax.tree.leaves(found[entry["name"]])
        ]

    # what is found out beforehand

    def _structs(self) -> dict[str, Any]:
        """Shapes and types of all that functions may take."""
        source = self.source
        hyper = source.hyper_tree.unflatten(list(source.hyper.values()))
        step, key = jax.eval_shape(lambda: (jnp.zeros((), jnp.int64), jax.random.key(0, impl=IMPLEMENTATION)))
        return {"data": source.data, "params": source.params, "hyper": hyper, "step": step, "key": key}

    def _reads(self, function: str) -> list[str]:
        """Hyperparameters that a function reads, seen as engines see it."""
        given = self._structs()
        leaves = jax.tree.leaves(given.pop("hyper"))

        def of_leaves(leaves: list[Any], given: dict[str, Any]) -> Any:
            return self.source.call(function, given | {"hyper": self.source.hyper_tree.unflatten(leaves)})

        read = read_inputs(jax.make_jaxpr(of_leaves)(leaves, given).jaxpr)
        return [name for name, one in zip(self.source.hyper, read, strict=False) if one]

    def _entries(self) -> list[dict[str, Any]]:
        """What the schedule returns, and the hyperparameters that each entry depends on."""

        def of_leaves(leaves: list[Any]) -> dict[str, Any]:
            found = self.source.call("schedule", {"hyper": self.source.hyper_tree.unflatten(leaves)})
            return {name: jax.tree.map(_real, values) for name, values in found.items()}

        jaxpr, found = jax.make_jaxpr(of_leaves, return_shape=True)(list(self.source.hyper.values()))
        depends = {
            name: jax.tree.structure(found).unflatten(depending_outputs(jaxpr.jaxpr, {index}))
            for index, name in enumerate(self.source.hyper)
        }
        return [
            {
                "name": name,
                "arrays": [described(leaf) for leaf in jax.tree.leaves(values)],
                "by_weight": jax.tree.structure(values).num_nodes > 1,
                "reads": [leaf for leaf, on in depends.items() if any(jax.tree.leaves(on[name]))],
            }
            for name, values in sorted(found.items())
        ]

    def _evaluated(self, function: str) -> Any:
        """Shape and type of what a function returns."""
        return jax.eval_shape(lambda given: self.source.call(function, given), self._structs())

    def _metric_names(self) -> tuple[str, ...]:
        if "metrics" not in self.source.functions:
            return ()
        found = self._evaluated("metrics")
        if not isinstance(found, dict) or not found:
            raise InvalidProblem(f"metrics must return a dict of numbers by name, not {type(found).__name__}")
        for name, one in found.items():
            if getattr(one, "shape", None) != () or jnp.issubdtype(one.dtype, jnp.complexfloating):
                raise InvalidProblem(f"metrics must return real numbers, and {name!r} is none; take its mean")
        return tuple(sorted(found))


def described(leaf: Any) -> dict[str, Any]:
    """Shape and type, as the manifest has them."""
    return {"shape": tuple(leaf.shape), "dtype": jnp.dtype(leaf.dtype).name}


def structs(arrays: Sequence[Array]) -> list[jax.ShapeDtypeStruct]:
    """Shapes and types, as JAX has them."""
    return [jax.ShapeDtypeStruct(array.shape, jnp.dtype(array.dtype)) for array in arrays]


def exported_function(flat: Flat, name: str) -> Callable[..., list[Any]]:
    """The function of this name, named so in the program."""
    function: Callable[..., list[Any]] = getattr(flat, name)

    def called(*arguments: Any) -> list[Any]:
        return function(*arguments)

    called.__name__ = called.__qualname__ = name
    return called


def _real(leaf: Any) -> jax.Array:
    """A number of a schedule as float, which engines make of it anyhow."""
    array = jnp.asarray(leaf)
    return array if array.dtype in (jnp.float32, jnp.float64) else array.astype(jnp.float64)


def _key(data: jax.Array) -> jax.Array:
    return jax.random.wrap_key_data(data, impl=IMPLEMENTATION)


def _implementation(leaf: jax.Array) -> Any:
    """Of random numbers, where the array is one of keys."""
    return jax.random.key_impl(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else None
