"""Whether a program runs: compiled within limits, run for a few steps, twice.

What `looking` has let through is numerical code of bounded arrays. It may still need too much memory, run for ever, not
be a number, or not be the same twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import InvalidProgram
from core.programs.archive import Archive
from core.programs.looking import contents
from core.programs.manifest import Array
from core.programs.signatures import signatures

_STEPS = 3
_STEP_SIZE = 1e-3
_AGREE = 1e-2  # between two ways to compute a gradient, relative to its largest entry

Progress = Callable[[str], None]


class Limits(NamedTuple):
    """What running one of a program's functions may take."""

    memory_bytes: int = 4 << 30


def check(program: Archive, limits: Limits, progress: Progress = lambda _: None) -> dict[str, Any]:
    """Look at a program, compile and run it; returns what was found, as JSON values.

    Args:
        program: from a stranger.
        limits: on its memory. Its time is for whoever started this process to limit.
        progress: told what is being done, for errors of which only a dead process remains.

    Raises:
        InvalidProgram: it cannot or must not be run; names the function.
    """
    progress("looking at its functions")
    made_of = contents(program)
    run = {name: _compiled(name, exported, limits, progress) for name, (exported, _) in made_of.items()}
    progress("running it")
    probe = _Probe(program, run, progress)
    first, second = probe.walk(), probe.walk()
    for name, results in first.items():
        if any(a.tobytes() != b.tobytes() for a, b in zip(results, second[name], strict=True)):
            raise InvalidProgram(
                f"{name}: returns other bits when it is run again; leave out what is not deterministic"
            )
    operations = sorted({kind for _, found in made_of.values() for kind in found.operations})
    calls = sorted({target for _, found in made_of.values() for target in found.calls})
    return {
        **described(program),
        "stablehlo_ops": operations,
        "custom_calls": calls,
        "deterministic": True,
        "probe": {name: _number(first[name][0]) for name in ("inner_loss", "outer_loss")},
        "bytes": sum(map(len, program.functions.values())),
    }


def described(program: Archive) -> dict[str, Any]:
    """What there is to know of a program without running it, as JSON values."""
    manifest = program.manifest
    return {
        "manifest": manifest.model_dump(mode="json"),
        "num_params": sum(leaf.size for leaf in manifest.params),
        "num_hyperparameters": sum(leaf.size for leaf in manifest.hyper),
    }


def _compiled(name: str, exported: jax.export.Exported, limits: Limits, progress: Progress) -> Any:
    progress(f"compiling {name}")
    arguments = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in exported.in_avals]
    try:
        compiled = jax.jit(exported.call).lower(*arguments).compile()
    except Exception as error:  # XLA has many
        raise InvalidProgram(f"{name}: cannot be compiled: {_brief(error)}") from error
    analysis: Any = compiled.memory_analysis()  # None on backends that do not analyse
    needed = sum(
        getattr(analysis, f"{part}_size_in_bytes", 0) for part in ("argument", "output", "temp", "generated_code")
    )
    if needed > limits.memory_bytes:
        raise InvalidProgram(
            f"{name}: needs {needed} bytes, more than the {limits.memory_bytes} that it may; make the model or its "
            "data smaller"
        )
    return compiled


class _Probe:
    """A few steps of training by plain gradients, and every other function once, on data that were made up."""

    def __init__(self, program: Archive, run: dict[str, Any], progress: Progress) -> None:
        self._program, self._manifest, self._run, self._progress = program, program.manifest, run, progress
        self._signatures = signatures(program.manifest)
        self._data = [_made_up(leaf) for leaves in self._manifest.data.values() for leaf in leaves]
        self._key = np.asarray(jax.random.key_data(jax.random.key(0)))

    def walk(self) -> dict[str, list[np.ndarray]]:
        """What each function returned last.

        Raises:
            InvalidProgram: something that is no finite number, of a program without data; or gradients that disagree.
        """
        found: dict[str, list[np.ndarray]] = {}

        def call(name: str, *arguments: Any) -> list[np.ndarray]:
            self._progress(f"running {name}")
            found[name] = self._call(name, arguments)
            return found[name]

        read = {name: self._initial(name) for name in self._manifest.reads}
        key, count = self._key, len(self._manifest.params)
        params = call("init", *read["init"], key)
        if "init_pullback" in self._run:
            call("init_pullback", *read["init"], key, *params)
        for name in ("schedule", "schedule_pullback"):
            if name in self._run:
                call(name, *read["schedule"], *(found["schedule"] if name == "schedule_pullback" else []))
        if "schedule_fixed" in self._run:
            call("schedule_fixed")
        for step in range(_STEPS):
            at = [*params, *read["inner_loss"], *self._data, np.int64(step), key]
            call("inner_loss", *at)
            gradient = call("inner_gradient", *at)
            whole = call("inner_linearized", *at)
            residuals = whole[count + len(read["inner_loss"]) :]
            call("inner_product", *residuals, *gradient)
            self._agree("inner_linearized", whole[:count], gradient)
            params = [
                (one - _STEP_SIZE * slope).astype(one.dtype) for one, slope in zip(params, gradient, strict=True)
            ]
        at = [*params, *read["outer_loss"], *self._data, key]
        value, (again, *_) = call("outer_loss", *at), call("outer_gradient", *at)
        self._agree("outer_gradient", [again], value)
        if self._manifest.metrics:
            call("metrics", *params, *read["metrics"], *self._data, key)
        return found

    def _initial(self, function: Any) -> list[np.ndarray]:
        return [self._program.hyper[leaf.name] for leaf in self._manifest.reading(function)]

    def _call(self, name: str, arguments: Any) -> list[np.ndarray]:
        arrays = self._signatures[name].inputs
        given = [np.asarray(one, jnp.dtype(array.dtype)) for one, array in zip(arguments, arrays, strict=True)]
        try:
            results = [np.asarray(one) for one in self._run[name](*given)]
        except Exception as error:
            raise InvalidProgram(f"{name}: cannot be run: {_brief(error)}") from error
        if not self._data and name != "inner_linearized" and name != "metrics":
            for number, result in enumerate(results):
                if not np.isfinite(result.astype(np.float64)).all():
                    raise InvalidProgram(
                        f"{name}: returns NaN or an infinity (array {number}), where hyperparameters start; look for a "
                        "log, root or division that made it, or start elsewhere"
                    )
        return results

    def _agree(self, name: str, found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
        for one, other in zip(found, wanted, strict=True):
            scale = float(np.max(np.abs(other), initial=0))
            apart = float(np.max(np.abs(one.astype(np.float64) - other.astype(np.float64)), initial=0))
            if math.isfinite(scale) and apart > _AGREE * scale + 1e-6:
                raise InvalidProgram(
                    f"{name}: does not agree with {'outer_loss' if name == 'outer_gradient' else 'inner_gradient'}; "
                    "export the program again with retrograd.export_problem(…)"
                )


def _made_up(leaf: Array) -> np.ndarray:
    """Data of this shape: numbers in [0, 1), or zeros and ones, the same ones always."""
    draw = np.random.Generator(np.random.PCG64(0))
    if jnp.issubdtype(jnp.dtype(leaf.dtype), jnp.inexact):
        return draw.random(leaf.shape).astype(jnp.dtype(leaf.dtype))
    return draw.integers(0, 2, leaf.shape).astype(jnp.dtype(leaf.dtype))


def _number(value: np.ndarray) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _brief(error: Exception) -> str:
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:300]}"
