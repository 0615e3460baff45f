"""Engines side by side, in one process: time as a ratio to plain training, working memory from XLA's own analysis.

    python -m benchmarks.engines [--steps 1000] [--repeats 9] [--json FILE]

The problem is the design's yardstick: 784-50-50-50-10, batch 250, float32, γ = 0.9, per-step per-group schedules.
Every method computes the same gradient. A round times every method once, in turn, each after an untimed call of
its own; ratios are taken within a round, and medians over rounds are quoted, so that noise falls on all alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from rich.console import Console
from rich.table import Table

from core.datasets import Examples, SplitData
from core.engines import Problem, hypergradient, reversible, sgd
from core.engines.reversible import working_memory
from core.engines.unrolled import train
from core.hyperparameters import groups_of, layouts_of
from core.problems.classifier import Classifier
from core.spec import JobSpec

HIDDEN, BATCH, MOMENTUM = (50, 50, 50), 250, 0.9
PLAIN, SCAN, SQRT, REVERSIBLE = "plain training", "jax.grad through scan", "√T checkpointing", "reversible"
TARGET_RATIO, TARGET_BITS, TARGET_MEMORY = 3.4, 1.05, 1.05
KEY = jax.random.key(0)  # a key, not an array: its dtype does not depend on 64-bit mode


def yardstick(steps: int) -> tuple[Problem, dict[str, jax.Array]]:
    """Problem and hyperparameters. Inputs are noise: neither time nor memory depends on their values."""
    spec = JobSpec.model_validate(
        {
            "problem": {
                "kind": "classifier",
                "dataset": {"name": "noise", "split": {"train": 10 * BATCH, "valid": BATCH, "test": BATCH}},
                "model": {"kind": "mlp", "hidden": HIDDEN},
                "outer_loss": "train",
            },
            "training": {"num_steps": steps, "batch_size": BATCH},
            "hyperparameters": {
                "step_size": {"learn": True, "per": ["step", "group"], "initial": 0.1},
                "momentum": {"learn": True, "per": ["step", "group"], "initial": MOMENTUM},
                "init_scale": {"learn": True, "per": ["group"], "initial": 0.05},
            },
        }
    )
    rng = np.random.default_rng(0)
    part = Examples(rng.random((10 * BATCH, 784)) - 0.5, rng.integers(0, 10, 10 * BATCH))
    groups = groups_of(spec.problem, 784, 10)
    layouts = layouts_of(spec, groups)
    problem = Classifier.of(spec, groups, layouts).problem(SplitData(part, part, part, ""))
    return problem, {name: jnp.asarray(one.initial_values()) for name, one in layouts.items() if one.learn}


def trained_loss(steps: int, segment_length: int | None, problem: Problem, hyper: Any) -> jax.Array:
    """Outer loss after training in ordinary floats."""
    params, _ = train(problem, hyper, KEY, sgd(), steps, segment_length)
    return problem.outer_loss(params, hyper, KEY)


def compile_rivals(steps: int) -> dict[str, Any]:
    """Ahead-of-time compiled programs: (problem, hyper) → loss, or loss and gradient."""
    problem, hyper = yardstick(steps)
    length = max(size for size in range(1, int(steps**0.5) + 1) if steps % size == 0)
    programs = {
        PLAIN: Partial(trained_loss, steps, None),
        SCAN: jax.value_and_grad(Partial(trained_loss, steps, None), argnums=1),
        SQRT: jax.value_and_grad(Partial(trained_loss, steps, length), argnums=1),
    }
    return {name: jax.jit(program).lower(problem, hyper).compile() for name, program in programs.items()}


def clock(method: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    jax.block_until_ready(method())
    return time.perf_counter() - began


def measure(steps: int, repeats: int) -> dict[str, Any]:
    """Medians of seconds and of ratios to plain training; memory; the certificate and the gradients' agreement."""
    problem, hyper = yardstick(steps)
    rivals = compile_rivals(steps)
    methods: dict[str, Callable[[], Any]] = {
        name: lambda program=program: program(problem, hyper) for name, program in rivals.items()
    }
    methods[REVERSIBLE] = lambda: hypergradient(
        problem, hyper, optimizer=sgd(), num_steps=steps, key=KEY, engine=reversible()
    )
    results = {name: method() for name, method in methods.items()}  # compiles and warms up
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repeats):
        for name, method in methods.items():
            clock(method)  # what the method before it did to caches and free memory is not its own cost
            seconds[name].append(clock(method))
    gradient, oracle = results[REVERSIBLE].gradient, results[SCAN][1]
    return {
        "steps": steps,
        "seconds": {name: statistics.median(times) for name, times in seconds.items()},
        "ratio": {
            name: statistics.median(one / plain for one, plain in zip(times, seconds[PLAIN], strict=True))
            for name, times in seconds.items()
        },
        "memory_bytes": {name: program.memory_analysis().temp_size_in_bytes for name, program in rivals.items()}
        | {REVERSIBLE: working_memory(problem, hyper, sgd(), steps, KEY)},
        "relative_difference_to_scan": {
            name: float(jnp.linalg.norm(gradient[name] - oracle[name]) / jnp.linalg.norm(oracle[name]))
            for name in oracle
        },
        "certificate": results[REVERSIBLE].certificate.as_dict(),
    }


def growth(short: int, long: int) -> dict[str, Any]:
    """Reversible engine alone, at two lengths: working memory, and the long run's certificate."""
    memory = {}
    for steps in (short, long):
        problem, hyper = yardstick(steps)
        memory[steps] = working_memory(problem, hyper, sgd(), steps, KEY)
    result = hypergradient(problem, hyper, optimizer=sgd(), num_steps=long, key=KEY, engine=reversible())
    return {"memory_bytes": memory, "certificate": result.certificate.as_dict()}


def show(table: dict[str, Any], long: dict[str, Any]) -> None:
    """Print what was measured beside its target."""
    console = Console()
    rows = Table("method", "seconds", "× plain training", "working memory", title=f"T = {table['steps']}")
    for name, seconds in table["seconds"].items():
        memory = f"{table['memory_bytes'][name] / 1e6:.1f} MB"
        rows.add_row(name, f"{seconds:.3f}", f"{table['ratio'][name]:.2f}", memory)
    console.print(rows)
    ratio = table["ratio"]
    (short_steps, short_bytes), (long_steps, long_bytes) = long["memory_bytes"].items()
    stored, bound = (long["certificate"][f"{kind}_bits_per_param_step"] for kind in ("stored", "bound"))
    checks = Table("what", "measured", "target", "")
    for what, measured, target in [
        ("reversible ÷ plain training", ratio[REVERSIBLE], TARGET_RATIO),
        ("reversible ÷ √T checkpointing", ratio[REVERSIBLE] / ratio[SQRT], 1.0),
        (f"memory at T = {long_steps} ÷ T = {short_steps}", long_bytes / short_bytes, TARGET_MEMORY),
        (f"stored ÷ bound bits, T = {long_steps} ({stored:.4f} ÷ {bound:.4f})", stored / bound, TARGET_BITS),
        (f"differing bits, T = {long_steps}", long["certificate"]["mismatched_bits"], 0),
    ]:
        checks.add_row(what, f"{measured:.3f}", f"≤ {target}", "met" if measured <= target else "missed")
    console.print(checks)
    console.print(f"mode: {table['certificate']['mode']}; device: {table['certificate']['device']}")
    console.print(f"relative difference to float32 jax.grad: {table['relative_difference_to_scan']}")


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, default=Path("outputs/benchmark-engines.json"))
    arguments = parser.parse_args()
    table, long = measure(arguments.steps, arguments.repeats), growth(100, 10_000)
    show(table, long)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps({"table": table, "long": long}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
