"""Exporting a problem: its functions and the derivatives that engines ask for, as data that a server can run.

StableHLO cannot be differentiated, so every derivative is exported beside the function: see
`core.programs.signatures`. The linearization of the gradient leaves residuals, as `jax.linearize` has them natively:
so the service computes what JAX would have computed here, with the same bits and in the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from pydantic import ValidationError

from core import engines
from core.callables import check_callable
from core.engines.arguments import an_int, finite_floats
from core.engines.inner import check_losses, check_params
from core.engines.problem import Problem, group_names
from core.errors import InvalidProblem, X64Disabled
from core.programs import archive
from core.programs.fitting import NEEDED
from core.programs.flat import TAKES, Flat, Source, exported_function, structs
from core.programs.looking import looked_at
from core.programs.manifest import Array, Manifest
from core.programs.signatures import signatures
from core.reversal.schedule import normalize
from core.spec import MAX_STEPS, OPTIMIZERS

_PLATFORMS = ("cpu", "cuda")
_SAID = 500  # characters of what JAX says


def export_problem(
    init: Callable[..., Any],
    inner_loss: Callable[..., Any],
    outer_loss: Callable[..., Any],
    schedule: Callable[..., Any],
    example_hyper: Any,
    *,
    num_steps: int,
    data: dict[str, dict[str, Any]] | None = None,
    metrics: Callable[..., dict[str, Any]] | None = None,
    platforms: Sequence[str] = _PLATFORMS,
    path: str | Path | None = None,
) -> bytes:
    """Export an inner and an outer problem as a program that `POST /v1/programs` takes.

    The functions are those of `core.Problem`. What they close over becomes part of the program, once for each function
    and derivative; with `data`, the losses and metrics take it as their first argument instead, and only its shapes
    and types are exported: jobs say which uploaded data sets stand for it.

    Args:
        init, inner_loss, outer_loss, schedule: as for `core.Problem`, deterministic and without callbacks.
        example_hyper: pytree of float32 or float64 arrays: where hyperparameters start. Their names are their paths.
        num_steps: T, steps of one training run.
        data: {name of a data set: {name of an array: array, or anything with shape and dtype}}. Of an uploaded data
            set there are `inputs` and `labels`.
        metrics: ([data,] params, hyper, key) → {name: number}, reported of trained parameters.
        platforms: to export for; "cpu" must be among them.
        path: where the archive is written to as well.

    Returns:
        The archive. The same problem gives the same bytes.

    Raises:
        X64Disabled: JAX is in 32-bit mode.
        InvalidProblem: an argument that cannot be trained or exported as given; the message names it.
        InvalidProgram: what the service would not run, such as a collective operation.
    """
    if not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise X64Disabled
    functions = {"init": init, "inner_loss": inner_loss, "outer_loss": outer_loss, "schedule": schedule}
    if metrics is not None:
        functions["metrics"] = metrics
    for name, function in functions.items():
        wanted = tuple(one for one in TAKES[name] if one != "data" or data is not None)
        check_callable(name, function, wanted, InvalidProblem)
    steps = an_int("num_steps", num_steps, most=MAX_STEPS)
    source = _source(functions, finite_floats(example_hyper), _shapes_of(data), steps, tuple(platforms))
    with _without_places():
        manifest, exported = _exported(Flat(source))
    content = archive.write(manifest, {name: np.asarray(leaf) for name, leaf in source.hyper.items()}, exported)
    looked_at(archive.read(content))
    if path is not None:
        Path(path).write_bytes(content)
    return content


def _source(
    functions: dict[str, Callable[..., Any]],
    hyper: Any,
    data: dict[str, dict[str, jax.ShapeDtypeStruct]] | None,
    num_steps: int,
    platforms: tuple[str, ...],
) -> Source:
    """Checked as `hypergradient` checks its arguments, but without an optimizer: any that fits the schedule will do."""
    leaves, tree = jax.tree.flatten(hyper)
    names = group_names(hyper) if tree.num_nodes > 1 else ["hyper"]
    for name, leaf in zip(names, leaves, strict=True):
        if leaf.dtype not in (jnp.float32, jnp.float64):
            raise InvalidProblem(f"hyper.{name} is {leaf.dtype}; make it float32 or float64")
    if len(set(names)) != len(names) or not names:
        raise InvalidProblem(f"hyper has leaves named {sorted(names)}; give each a name of its own, in a dict")
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = jax.eval_shape(lambda: hyper)
    params = jax.eval_shape(functions["init"], shapes, key)
    check_params(params)

    def losses(data: Any, *given: Any) -> None:
        of_data = {
            name: function if data is None else Partial(function, data)
            for name, function in functions.items()
            if "loss" in name
        }
        problem = Problem(functions["init"], schedule=functions["schedule"], **of_data)
        check_losses(problem, *given)

    jax.eval_shape(losses, data, params, shapes, key)
    _check_schedule(functions["schedule"], shapes, params, num_steps)
    return Source(functions, dict(zip(names, leaves, strict=True)), tree, params, data, num_steps, platforms)


def _check_schedule(schedule: Callable[..., Any], hyper: Any, params: Any, num_steps: int) -> None:
    """Raise InvalidProblem unless some optimizer takes what the schedule returns."""
    found = jax.eval_shape(schedule, hyper)
    names = set(found) if isinstance(found, dict) else set()
    fitting = [name for name, needed in NEEDED.items() if needed <= names <= set(OPTIMIZERS[name])]
    optimizer = getattr(engines, fitting[0] if fitting else "sgd")()
    jax.eval_shape(lambda hyper: normalize(schedule(hyper), optimizer, params, num_steps), hyper)


def _exported(flat: Flat) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest, and every function serialized."""
    facts = flat.facts()
    residuals = flat.residuals(signatures(_manifest(facts))["inner_linearized"].inputs)
    manifest = _manifest(facts | {"residuals": residuals})
    return manifest, {
        name: _serialized(exported_function(flat, name), signature.inputs, flat.source.platforms)
        for name, signature in signatures(manifest).items()
    }


def _manifest(facts: dict[str, Any]) -> Manifest:
    try:
        return Manifest.model_validate(facts)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise InvalidProblem(
            f"the problem cannot be exported: {where}{': ' if where else ''}{said}. Names are made of letters, "
            "digits, dots, dashes and underscores, 64 at most"
        ) from error


def _serialized(function: Callable[..., list[Any]], inputs: Sequence[Array], platforms: tuple[str, ...]) -> bytes:
    try:
        exported = jax.export.export(jax.jit(function), platforms=platforms)(*structs(inputs))
        return bytes(exported.serialize())
    except Exception as error:  # it was traced before: what is wrong now is that JAX does not export it
        said = f"{type(error).__name__}: {str(error)[:_SAID]}"
        raise InvalidProblem(
            f"{function.__name__} cannot be exported ({said}); leave out callbacks, prints and what is only here"
        ) from error


def _shapes_of(data: Any) -> dict[str, dict[str, jax.ShapeDtypeStruct]] | None:
    if data is None:
        return None
    if not isinstance(data, dict) or not all(isinstance(arrays, dict) and arrays for arrays in data.values()):
        raise InvalidProblem("data must be {name: {name: array}}, such as {'train': {'inputs': X, 'labels': y}}")
    return {
        str(name): {str(one): _shape_of(f"data.{name}.{one}", leaf) for one, leaf in sorted(arrays.items())}
        for name, arrays in sorted(data.items())
    }


def _shape_of(name: str, leaf: Any) -> jax.ShapeDtypeStruct:
    try:
        given = leaf if hasattr(leaf, "shape") and hasattr(leaf, "dtype") else np.asarray(leaf)
        dtype = jax.dtypes.canonicalize_dtype(given.dtype)
    except (TypeError, ValueError):
        dtype = np.dtype(object)
    if not (jnp.issubdtype(dtype, jnp.number) or dtype.kind == "b"):
        raise InvalidProblem(f"{name} is no array of numbers; give one, or its shape and dtype")
    return jax.ShapeDtypeStruct(given.shape, dtype)


@contextmanager
def _without_places() -> Iterator[None]:
    """Programs say nothing of the files that they were written in, so that equal ones are equal anywhere."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)
