"""Programs that no exporter writes."""

import dataclasses
import io
import json
import zipfile

import jax
from jax.extend.mlir import ir, serialize_portable_artifact
from jax.interpreters.mlir import make_ir_context

from core.programs import archive
from core.programs.entries import MANIFEST, function_entry
from core.programs.flat import structs
from core.programs.signatures import signatures


def entries_of(program):
    with zipfile.ZipFile(io.BytesIO(program)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def zipped(entries):
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as written:
            for name, content in entries.items():
                written.writestr(name, content)
        return file.getvalue()


def with_entry(program, name, content):
    return zipped(entries_of(program) | {name: content})


def with_manifest(program, change):
    """`change` is told the manifest as a dict, and changes it."""
    document = json.loads(entries_of(program)[MANIFEST])
    change(document)
    return with_entry(program, MANIFEST, json.dumps(document).encode())


def with_serialized(program, name, content):
    return with_entry(program, function_entry(name), content)


def with_function(program, name, function, inputs=None, **changes):
    """Another function in the place of one, of the same signature unless `inputs` are given."""
    manifest = archive.read(program).manifest
    wanted = structs(signatures(manifest)[name].inputs) if inputs is None else inputs

    def called(*arguments):
        return function(*arguments)

    called.__name__ = changes.pop("called", name)
    platforms = changes.pop("platforms", manifest.platforms)
    exported = jax.export.export(jax.jit(called), platforms=platforms)(*wanted)
    return with_serialized(program, name, bytes(dataclasses.replace(exported, **changes).serialize()))


def with_exported(program, name, **changes):
    """The same function, some of whose fields say something else."""
    exported = jax.export.deserialize(bytearray(archive.read(program).functions[name]))
    return with_serialized(program, name, bytes(dataclasses.replace(exported, **changes).serialize()))


def with_text(program, name, change):
    """A module whose text `change` has changed."""
    exported = jax.export.deserialize(bytearray(archive.read(program).functions[name]))
    with make_ir_context():
        module = ir.Module.parse(change(exported.mlir_module()))
        content = serialize_portable_artifact(module, "1.13.0", False)
    return with_exported(program, name, mlir_module_serialized=content)


def with_body(program, name, body, also=""):
    """A module whose main computes `body`, which sees its arguments as %arg0, … and says what it returns.

    For functions without hyperparameters, data or other arguments that were dropped.
    """

    def change(text):
        lines = text.splitlines()
        head = next(line for line in lines if "func.func public @main" in line)
        return "module @jit_f {\n" + head + "\n" + body + "\n}\n" + also + "\n}"

    return with_text(program, name, change)
