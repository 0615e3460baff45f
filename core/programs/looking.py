"""What may be in a program, found by looking at it, before anything is compiled.

Each function must have the signature that the manifest gives it, no effects, one device, and operations that are known
to be harmless, deterministic and of bounded size. What is not known is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.mlir import deserialize_portable_artifact
from jax.extend.mlir import ir as _ir
from jax.interpreters.mlir import make_ir_context

from core.errors import InvalidProgram
from core.programs.archive import Archive
from core.programs.manifest import Array, Manifest
from core.programs.operations import CALLS, COMPOSITES, OPERATIONS, TYPES
from core.programs.signatures import Signature, signatures

ir: Any = _ir  # its types do not resolve
MAX_TENSOR_BYTES = 4 << 30
MAX_OPERATIONS = 1_000_000
"""Of a function, every call inside counted as what it calls."""

_MAX_NESTING = 100
_EXPORT_AGAIN = "export it again with retrograd.export_problem(…) of this version"
# of custom calls; others place operations on hosts and devices
_DOTTED = {"mhlo.backend_config", "mhlo.frontend_attributes", "sdy.sharding_rule"}
_BATCH = re.compile(r'\{num_batch_dims = "\d{1,2}"\}')


class Found(NamedTuple):
    """What a module is made of."""

    operations: set[str]
    calls: set[str]  # targets of custom calls


def looked_at(program: Archive) -> dict[str, jax.export.Exported]:
    """The functions of a program, by name, each known to be one that may be compiled.

    Raises:
        InvalidProgram: not so; names the function.
    """
    return {name: exported for name, (exported, _) in contents(program).items()}


def contents(program: Archive) -> dict[str, tuple[jax.export.Exported, Found]]:
    """The functions, and what they are made of.

    Raises:
        InvalidProgram: see `looked_at`.
    """
    found = {}
    for name, signature in signatures(program.manifest).items():
        exported = _deserialized(name, program.functions[name])
        try:
            _check_exported(name, exported, signature, program.manifest)
            made_of = _check_module(name, exported.mlir_module_serialized, exported, signature)
        except InvalidProgram:
            raise
        except Exception as error:  # of whatever reads names, shapes and attributes that nobody has written
            raise InvalidProgram(
                f"{name}: cannot be looked at ({type(error).__name__}); {_EXPORT_AGAIN}"
            ) from error
        found[name] = exported, made_of
    return found


def _deserialized(name: str, content: bytes) -> jax.export.Exported:
    try:
        return jax.export.deserialize(bytearray(content))
    except Exception as error:  # whatever damaged bytes make of a parser that trusts them
        raise InvalidProgram(
            f"{name}: is not an exported function ({type(error).__name__}); {_EXPORT_AGAIN}"
        ) from error


def _check_exported(name: str, exported: jax.export.Exported, signature: Signature, manifest: Manifest) -> None:
    """What the function says of itself beside its module."""
    low, high = (
        jax.export.minimum_supported_calling_convention_version,
        jax.export.maximum_supported_calling_convention_version,
    )
    version = exported.calling_convention_version
    if not low <= version <= high or version != manifest.calling_convention:
        raise InvalidProgram(
            f"{name}: has calling convention {version}, its manifest {manifest.calling_convention}; JAX "
            f"{jax.__version__} runs {low} to {high}; {_EXPORT_AGAIN}"
        )
    for what, wrong in {
        f"is called {exported.fun_name[:60]!r}": exported.fun_name != name,
        "has effects: leave out prints, callbacks and state": bool(
            exported.ordered_effects or exported.unordered_effects
        ),
        f"is for {exported.nr_devices} devices; export it for one": exported.nr_devices != 1,
        "is sharded; export it for one device": any(
            (*exported._in_named_shardings, *exported._out_named_shardings)
        )
        or any((*exported.in_shardings_hlo, *exported.out_shardings_hlo)),
        "asks for checks to be left out": bool(exported.disabled_safety_checks),
        f"is for {', '.join(exported.platforms)[:60]}, and its manifest says otherwise": tuple(exported.platforms)
        != manifest.platforms,
        "has shapes that are no numbers; export it for arrays of fixed shapes": not all(
            isinstance(extent, int) for aval in (*exported.in_avals, *exported.out_avals) for extent in aval.shape
        ),
        "takes or returns something else than flat lists of arrays": not _is_flat(exported),
        "names arguments that it does not have": not _keeps(exported),
        "brings a derivative of its own": exported._get_vjp is not None,
    }.items():
        if wrong:
            raise InvalidProgram(f"{name}: {what}; {_EXPORT_AGAIN}")
    for direction, avals, arrays in (
        ("takes", exported.in_avals, signature.inputs),
        ("returns", exported.out_avals, signature.outputs),
    ):
        if len(avals) != len(arrays):
            raise InvalidProgram(f"{name}: {direction} {len(avals)} arrays, and its manifest says {len(arrays)}")
        for number, (aval, array) in enumerate(zip(avals, arrays, strict=True)):
            if tuple(aval.shape) != array.shape or jnp.dtype(aval.dtype) != jnp.dtype(array.dtype):
                raise InvalidProgram(
                    f"{name}: {direction} {str(aval)[:60]} as array {number}, and its manifest says {array.dtype} of "
                    f"shape {list(array.shape)}; {_EXPORT_AGAIN}"
                )


def _is_flat(exported: jax.export.Exported) -> bool:
    inputs, outputs = len(exported.in_avals), len(exported.out_avals)
    return exported.in_tree == jax.tree.structure(((0,) * inputs, {})) and exported.out_tree == jax.tree.structure(
        [0] * outputs
    )


def _keeps(exported: jax.export.Exported) -> bool:
    kept = exported.module_kept_var_idx
    return list(kept) == sorted(set(kept)) and all(0 <= index < len(exported.in_avals) for index in kept)


def _check_module(name: str, content: bytes, exported: jax.export.Exported, signature: Signature) -> Found:
    with make_ir_context():
        try:
            module = deserialize_portable_artifact(content)
            module.operation.verify()
        except Exception as error:
            raise InvalidProgram(
                f"{name}: holds no StableHLO that JAX {jax.__version__} reads; {_EXPORT_AGAIN}"
            ) from error
        functions = _functions(name, module)
        kept = [signature.inputs[index] for index in exported.module_kept_var_idx]
        _check_main(name, functions, kept, signature.outputs, with_platform=len(exported.platforms) > 1)
        found = Found(set(), set())
        sizes = {
            symbol: _check_function(name, function, found, functions) for symbol, function in functions.items()
        }
        _check_calls(name, sizes)
        return found


def _functions(name: str, module: Any) -> dict[str, Any]:
    functions = {}
    for operation in module.body.operations:
        if operation.operation.name != "func.func":
            raise InvalidProgram(f"{name}: holds {operation.operation.name} beside functions; {_EXPORT_AGAIN}")
        functions[ir.StringAttr(operation.operation.attributes["sym_name"]).value] = operation.operation
    return functions


def _check_main(
    name: str, functions: dict[str, Any], inputs: list[Array], outputs: tuple[Array, ...], *, with_platform: bool
) -> None:
    """The module's own signature, which nothing else holds against what is said of it."""
    if "main" not in functions:
        raise InvalidProgram(f"{name}: has no main function; {_EXPORT_AGAIN}")
    kind = ir.FunctionType(ir.TypeAttr(functions["main"].attributes["function_type"]).value)
    takes, returns = ([str(one) for one in types] for types in (kind.inputs, kind.results))
    if with_platform and takes and takes[0] in ("tensor<i32>", "tensor<i64>"):  # which of the platforms it runs on
        del takes[0]
    elif with_platform:
        takes = ["none"]
    if takes != [_said(one) for one in inputs] or returns != [_said(one) for one in outputs]:
        raise InvalidProgram(f"{name}: its module has another signature than it says; {_EXPORT_AGAIN}")


def _said(array: Array) -> str:
    """The type of an array, as MLIR prints it."""
    element = TYPES[array.dtype]
    return f"tensor<{'x'.join([*map(str, array.shape), element])}>"


class _Size(NamedTuple):
    operations: int
    calls: dict[str, int]  # of functions inside, by symbol: how often


def _check_function(name: str, function: Any, found: Found, functions: dict[str, Any]) -> _Size:
    count, calls = 0, dict[str, int]()
    for operation, depth in _inside(function):
        count += 1
        if depth > _MAX_NESTING or count > MAX_OPERATIONS:
            raise InvalidProgram(f"{name}: is nested too deeply or too long; make it smaller")
        kind = operation.name
        if kind not in OPERATIONS:
            raise InvalidProgram(f"{name}: holds {kind[:60]}, which is not run here; leave it out")
        if odd := _odd_attributes(operation):
            raise InvalidProgram(
                f"{name}: asks for {min(odd)[:60]} of {kind}, which is not done here; leave it out"
            )
        found.operations.add(kind)
        for value in [
            *operation.results,
            *(one for region in operation.regions for block in region for one in block.arguments),
        ]:
            _check_type(name, value.type)
        if kind == "func.call":
            callee = ir.FlatSymbolRefAttr(operation.attributes["callee"]).value
            calls[callee] = calls.get(callee, 0) + 1
        elif kind == "stablehlo.composite":
            _check_composite(name, operation, calls)
        elif kind == "stablehlo.custom_call":
            found.calls.add(_check_custom_call(name, operation))
    if unknown := set(calls) - set(functions):
        raise InvalidProgram(f"{name}: calls {min(unknown)[:60]!r}, which is not there; {_EXPORT_AGAIN}")
    return _Size(count, calls)


def _inside(function: Any) -> Iterator[tuple[Any, int]]:
    """All operations of a function, regions too, and how deep they are."""
    left = [(function, 0)]
    while left:
        operation, depth = left.pop()
        yield operation, depth
        for region in operation.regions:
            for block in region:
                left.extend((one.operation, depth + 1) for one in block)


def _odd_attributes(operation: Any) -> set[str]:
    """What is asked of an operation beside what it is."""
    odd = {one for one in _attributes(operation) if "." in one}
    if operation.name != "stablehlo.custom_call":
        return odd
    if "mhlo.frontend_attributes" in odd and not _BATCH.fullmatch(
        str(operation.attributes["mhlo.frontend_attributes"])
    ):
        return odd
    return odd - _DOTTED


def _attributes(operation: Any) -> set[str]:
    return {one if isinstance(one, str) else one.name for one in operation.attributes}


def _check_type(name: str, kind: Any) -> None:
    if not isinstance(kind, ir.RankedTensorType):
        kind = ir.RankedTensorType(kind) if ir.RankedTensorType.isinstance(kind) else None
    if kind is None or not kind.has_static_shape or str(kind.element_type) not in _BYTES:
        raise InvalidProgram(
            f"{name}: holds a value that is no array of fixed shape and plain numbers; leave it out"
        )
    size = _BYTES[str(kind.element_type)]
    for extent in kind.shape:
        size *= extent
    if size > MAX_TENSOR_BYTES:
        raise InvalidProgram(
            f"{name}: holds an array of {size} bytes, {str(kind)[:80]}, more than {MAX_TENSOR_BYTES}; make it smaller"
        )


_BYTES = {
    "i1": 1,
    "i4": 1,
    "ui4": 1,
    "i8": 1,
    "ui8": 1,
    "i16": 2,
    "ui16": 2,
    "i32": 4,
    "ui32": 4,
    "i64": 8,
    "ui64": 8,
}
_BYTES |= {"bf16": 2, "f16": 2, "f32": 4, "f64": 8, "complex<f32>": 8, "complex<f64>": 16}


def _check_composite(name: str, operation: Any, calls: dict[str, int]) -> None:
    what = ir.StringAttr(operation.attributes["name"]).value
    if what not in COMPOSITES:
        raise InvalidProgram(f"{name}: holds the composite {what[:60]!r}, which is not run here; leave it out")
    callee = ir.FlatSymbolRefAttr(operation.attributes["decomposition"]).value
    calls[callee] = calls.get(callee, 0) + 1


def _check_custom_call(name: str, operation: Any) -> str:
    """Its target. What a target writes is decided by shapes that it does not check itself, so they are checked here."""
    target = ir.StringAttr(operation.attributes["call_target_name"]).value
    fits = CALLS.get(target)
    if fits is None:
        raise InvalidProgram(
            f"{name}: calls {target[:60]!r}, which is not run here: of what is no StableHLO, only known numerical "
            "routines are; leave out callbacks, prints and foreign functions"
        )
    operands, results = (
        [
            (tuple(ir.RankedTensorType(value.type).shape), str(ir.RankedTensorType(value.type).element_type))
            for value in values
        ]
        for values in (operation.operands, operation.results)
    )
    side_effect = (
        "has_side_effect" in _attributes(operation) and ir.BoolAttr(operation.attributes["has_side_effect"]).value
    )
    options = (
        str(operation.attributes["mhlo.backend_config"]) if "mhlo.backend_config" in _attributes(operation) else ""
    )
    if side_effect or not fits(operands, results, options):
        raise InvalidProgram(f"{name}: calls {target} with shapes that it does not have; {_EXPORT_AGAIN}")
    return target


def _check_calls(name: str, sizes: dict[str, _Size]) -> None:
    """Functions call each other without circles, and not more often than can be compiled."""
    total: dict[str, int] = {}
    on_the_way: set[str] = set()

    def visit(symbol: str, depth: int) -> int:
        if symbol in on_the_way or depth > _MAX_NESTING:
            raise InvalidProgram(f"{name}: has functions that call themselves; {_EXPORT_AGAIN}")
        if symbol not in total:
            on_the_way.add(symbol)
            size = sizes[symbol]
            total[symbol] = size.operations + sum(
                times * visit(callee, depth + 1) for callee, times in size.calls.items()
            )
            on_the_way.remove(symbol)
        return total[symbol]

    for symbol in sizes:
        if visit(symbol, 0) > MAX_OPERATIONS:
            raise InvalidProgram(f"{name}: has more than {MAX_OPERATIONS} operations once calls are written out")
