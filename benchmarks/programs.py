"""What it costs that a problem comes as an exported program: hypergradients of both, in turns, in one process.

    python -m benchmarks.programs [--steps 1000] [--repeats 9]

The native problem and the program made of it give the same bits. A round times each once, after an untimed call of its
own; ratios are taken within a round, and their median is quoted. Compiling is told apart: it is done once a process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from rich.console import Console
from rich.table import Table

from benchmarks.measure import RESULTS, in_rounds, medians, ratios, write
from benchmarks.yardstick import KEY, yardstick
from core.engines import Problem, hypergradient, reversible, sgd
from core.programs.exporting import export_problem
from core.programs.running import problem_of

NATIVE, PROGRAM = "native", "program"
TARGET = 1.15
BATCH, LENGTH, FEATURES, WIDTH = 64, 16, 8, 32


class Pair(NamedTuple):
    """The same problem twice."""

    native: Problem
    program: Problem
    hyper: dict[str, jax.Array]
    bytes: int  # of the archive


def classifier(steps: int) -> Pair:
    """The yardstick."""
    case = yardstick(steps)
    found = case.problem
    leaves, tree = jax.tree.flatten((found.inner_loss.args, found.outer_loss.args))
    data = {"all": {f"array_{number}": leaf for number, leaf in enumerate(leaves)}}

    def losses(which: int, function: Callable[..., Any]) -> Callable[..., Any]:
        def loss(data: Any, *given: Any) -> Any:
            arrays = [data["all"][f"array_{number}"] for number in range(len(leaves))]
            return function(*tree.unflatten(arrays)[which], *given)

        return loss

    content = export_problem(
        found.init.func,
        losses(0, found.inner_loss.func),
        losses(1, found.outer_loss.func),
        found.schedule.func,
        case.hyper,
        num_steps=steps,
        data=data,
    )
    return Pair(found, problem_of(content, data), case.hyper, len(content))


def recurrent(steps: int) -> Pair:
    """A recurrent net on sequences, with a penalty for each group of weights."""

    def outputs(params: Any, inputs: jax.Array) -> jax.Array:
        def cell(hidden: jax.Array, now: jax.Array) -> Any:
            return jnp.tanh(hidden @ params["hidden"] + now @ params["inputs"]), None

        hidden, _ = jax.lax.scan(cell, jnp.zeros((len(inputs), WIDTH), inputs.dtype), inputs.swapaxes(0, 1))
        return hidden @ params["output"]

    def loss(params: Any, inputs: jax.Array, labels: jax.Array) -> jax.Array:
        return jnp.mean(jnp.logaddexp(0, -labels * outputs(params, inputs)))

    def init(hyper: Any, key: jax.Array) -> Any:
        shapes = {"hidden": (WIDTH, WIDTH), "inputs": (FEATURES, WIDTH), "output": (WIDTH,)}
        scale = jnp.exp(hyper["log_scale"]).astype(jnp.float32)
        keys = jax.random.split(key, len(shapes))
        return {
            name: scale * jax.random.normal(one, shape, jnp.float32)
            for one, (name, shape) in zip(keys, shapes.items(), strict=True)
        }

    def inner_loss(data: Any, params: Any, hyper: Any, step: jax.Array, key: jax.Array) -> jax.Array:
        start = step % 8 * BATCH
        part = [jax.lax.dynamic_slice_in_dim(data["train"][name], start, BATCH) for name in ("inputs", "labels")]
        strengths = jnp.exp(hyper["log_l2"]).astype(jnp.float32)
        return loss(params, *part) + strengths @ jnp.stack([jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)])

    def outer_loss(data: Any, params: Any, hyper: Any, key: jax.Array) -> jax.Array:
        return loss(params, data["train"]["inputs"], data["train"]["labels"])

    def schedule(hyper: Any) -> Any:
        return {"step_size": jnp.exp(hyper["log_step_size"]), "momentum": jax.nn.sigmoid(hyper["momentum"])}

    hyper = {
        "log_scale": jnp.asarray(-1.5),
        "log_l2": jnp.full(3, -8.0),
        "log_step_size": jnp.full((steps, 3), -2.0),
        "momentum": jnp.full((steps, 3), 2.0),
    }
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(8 * BATCH, LENGTH, FEATURES)).astype(np.float32)
    labels = np.sign(inputs[..., 0].sum(axis=1)).astype(np.float32)
    data = {"train": {"inputs": jnp.asarray(inputs), "labels": jnp.asarray(labels)}}
    content = export_problem(init, inner_loss, outer_loss, schedule, hyper, num_steps=steps, data=data)
    native = Problem(init, Partial(inner_loss, data), Partial(outer_loss, data), schedule)
    return Pair(native, problem_of(content, data), hyper, len(content))


CASES = {"784-50-50-50-10, batch 250": classifier, "recurrent net 8-32, 16 steps of time, batch 64": recurrent}


def measure(name: str, steps: int, repeats: int) -> dict[str, Any]:
    """Seconds of both, their ratio, and how far apart the gradients are."""
    pair = CASES[name](steps)

    def method(problem: Problem) -> Callable[[], Any]:
        return lambda: hypergradient(
            problem, pair.hyper, optimizer=sgd(), num_steps=steps, key=KEY, engine=reversible()
        )

    methods = {NATIVE: method(pair.native), PROGRAM: method(pair.program)}
    results, compiling = {}, {}
    for one, call in methods.items():
        began = time.perf_counter()
        results[one] = call()
        compiling[one] = time.perf_counter() - began
    seconds = in_rounds(methods, repeats)
    gradients = [results[one].gradient for one in (NATIVE, PROGRAM)]
    return {
        "problem": name,
        "steps": steps,
        "repeats": repeats,
        "archive_bytes": pair.bytes,
        "first_seconds": compiling,
        "seconds": medians(seconds),
        "ratio": ratios(seconds, NATIVE)[PROGRAM],
        "target": TARGET,
        "differing_numbers": sum(int(jnp.sum(gradients[0][leaf] != gradients[1][leaf])) for leaf in pair.hyper),
        "certificate": results[PROGRAM].certificate.as_dict(),
    }


def show(found: list[dict[str, Any]]) -> None:
    """Print the table."""
    rows = Table(
        "problem", "native, s", "program, s", "ratio", "target", "first call, s", "numbers that differ", "exact"
    )
    for row in found:
        rows.add_row(
            row["problem"],
            *(f"{row['seconds'][one]:.3f}" for one in (NATIVE, PROGRAM)),
            f"{row['ratio']:.3f}",
            f"≤ {row['target']}",
            " / ".join(f"{row['first_seconds'][one]:.1f}" for one in (NATIVE, PROGRAM)),
            str(row["differing_numbers"]),
            str(row["certificate"]["exact"]),
        )
    Console(width=150).print(rows)


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, default=RESULTS / "programs.json")
    arguments = parser.parse_args()
    found = [measure(name, arguments.steps, arguments.repeats) for name in CASES]
    show(found)
    write(arguments.json, found)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
