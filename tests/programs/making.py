"""Archives of programs, sound but for their functions, which nobody reads who only keeps them."""

import io
import zipfile

import numpy as np

from core.programs import archive
from core.programs.manifest import Manifest, read_manifest
from core.programs.signatures import signatures

STEPS = 5
MANIFEST = {
    "format": 1,
    "jax_version": "0.10.2",
    "calling_convention": 10,
    "platforms": ["cpu", "cuda"],
    "num_steps": STEPS,
    "params": [{"name": "weights", "shape": [16, 3], "dtype": "float32"}],
    "hyper": [
        {"name": "log_step", "shape": [STEPS], "dtype": "float64"},
        {"name": "momentum", "shape": [], "dtype": "float64"},
        {"name": "penalties", "shape": [16], "dtype": "float32"},
    ],
    "data": {
        "train": [
            {"name": "inputs", "shape": [30, 16], "dtype": "float32"},
            {"name": "labels", "shape": [30], "dtype": "int32"},
        ]
    },
    "schedule": [
        {
            "name": "step_size",
            "by_weight": False,
            "arrays": [{"shape": [STEPS], "dtype": "float64"}],
            "reads": ["log_step"],
        },
        {
            "name": "momentum",
            "by_weight": False,
            "arrays": [{"shape": [], "dtype": "float64"}],
            "reads": ["momentum"],
        },
    ],
    "metrics": ["accuracy"],
    "reads": {
        "init": [],
        "inner_loss": ["penalties"],
        "outer_loss": [],
        "metrics": [],
        "schedule": ["log_step", "momentum"],
    },
    "losses": {"inner_loss": "float32", "outer_loss": "float32"},
}


def program(said="0.10.2", **changes):
    """An archive whose manifest says so; `said`, the version of JAX, tells `checked` what to do."""
    manifest = Manifest.model_validate(MANIFEST | {"jax_version": said} | changes)
    hyper = {leaf.name: np.zeros(leaf.shape, leaf.dtype) for leaf in manifest.hyper}
    return archive.write(manifest, hyper, {name: name.encode() for name in signatures(manifest)})


def found(archived=None):
    """What a check finds of an archive."""
    manifest = read_manifest(io.BytesIO(program() if archived is None else archived))
    return {
        "manifest": manifest.model_dump(mode="json"),
        "num_params": sum(leaf.size for leaf in manifest.params),
        "num_hyperparameters": sum(leaf.size for leaf in manifest.hyper),
        "stablehlo_ops": ["stablehlo.add"],
        "custom_calls": [],
        "deterministic": True,
        "probe": {"inner_loss": 1.5, "outer_loss": 2.5},
        "bytes": 77,
    }


def declaring(**changes):
    """An archive that holds its manifest alone, however large what that speaks of."""
    manifest = Manifest.model_validate(MANIFEST | changes)
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as written:
            written.writestr("manifest.json", manifest.model_dump_json())
        return file.getvalue()


def job(program_id, dataset_id=None, **changes):
    """A job about such a program."""
    problem = {"kind": "program", "id": program_id}
    if dataset_id is not None:
        problem["data"] = {"train": dataset_id}
    return {
        "name": "own",
        "problem": problem | changes,
        "training": {"optimizer": "sgd", "num_steps": STEPS},
        "meta": {"num_iterations": 2},
    }
