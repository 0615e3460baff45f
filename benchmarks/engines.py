"""Engines side by side, in one process: time as a ratio to plain training, working memory from XLA's own analysis.

    python -m benchmarks.engines [--steps 1000] [--repeats 7] [--json FILE]

The problem is the design's yardstick: 784-50-50-50-10, batch 250, float32, per-step per-group schedules. Every
method computes the same gradient; each round times every method once, in turn, and medians over rounds are
quoted, so that a noisy machine is noisy for all.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)

from core.datasets import Examples, SplitData  # noqa: E402
from core.engines import hypergradient, reversible, sgd  # noqa: E402
from core.engines.unrolled import train  # noqa: E402
from core.hyperparameters import groups_of, layouts_of  # noqa: E402
from core.problems.classifier import Classifier  # noqa: E402
from core.spec import JobSpec  # noqa: E402

MOMENTUM = 0.9


def yardstick(steps: int, hidden: tuple[int, ...], batch: int, momentum: float) -> tuple[Any, dict[str, Any]]:
    """Problem and hyperparameters. Inputs are noise: neither time nor memory depends on their values."""
    spec = JobSpec.model_validate(
        {
            "problem": {
                "kind": "classifier",
                "dataset": {"name": "noise", "split": {"train": 10 * batch, "valid": batch, "test": batch}},
                "model": {"kind": "mlp", "hidden": hidden},
                "outer_loss": "train",
            },
            "training": {"num_steps": steps, "batch_size": batch},
            "hyperparameters": {
                "step_size": {"learn": True, "per": ["step", "group"], "initial": 0.1},
                "momentum": {"learn": True, "per": ["step", "group"], "initial": momentum},
                "init_scale": {"learn": True, "per": ["group"], "initial": 0.05},
            },
        }
    )
    rng = np.random.default_rng(0)
    part = Examples(rng.random((10 * batch, 784)) - 0.5, rng.integers(0, 10, 10 * batch))
    groups = groups_of(spec.problem, 784, 10)
    layouts = layouts_of(spec, groups)
    problem = Classifier(spec, groups, layouts).problem(SplitData(part, part, part, ""))
    hyper = {name: jnp.asarray(one.initial_values()) for name, one in layouts.items() if one.learn}
    return problem, hyper


def sqrt_checkpointed(steps: int) -> Callable[..., Any]:
    """√T nested `jax.checkpoint`: an outer scan over segments whose insides are recomputed."""
    length = max(size for size in range(1, int(steps**0.5) + 1) if steps % size == 0)

    def value(hyper: Any, problem: Any, key: jax.Array) -> jax.Array:
        params, _ = train(problem, hyper, key, sgd(), steps, segment_length=length)
        return problem.outer_loss(params, hyper, key)

    return jax.jit(jax.value_and_grad(value))


def measure(steps: int, repeats: int, hidden: tuple[int, ...], batch: int, momentum: float) -> dict[str, Any]:
    """One table: {method: {seconds, ratio, memory_bytes}} and the reversible engine's bits."""
    problem, hyper = yardstick(steps, hidden, batch, momentum)
    key = jax.random.key(0)

    def loss(hyper: Any, problem: Any, key: jax.Array) -> jax.Array:
        return problem.outer_loss(train(problem, hyper, key, sgd(), steps)[0], hyper, key)

    compiled = {
        "plain training": jax.jit(loss).lower(hyper, problem, key).compile(),
        "jax.grad through scan": jax.jit(jax.value_and_grad(loss)).lower(hyper, problem, key).compile(),
        "√T checkpointing": sqrt_checkpointed(steps).lower(hyper, problem, key).compile(),
    }
    memory = {name: one.memory_analysis().temp_size_in_bytes for name, one in compiled.items()}
    methods: dict[str, Callable[[], Any]] = {
        name: (lambda one=one: jax.block_until_ready(one(hyper, problem, key)))
        for name, one in compiled.items()
    }

    def exact() -> Any:
        return jax.block_until_ready(
            hypergradient(problem, hyper, optimizer=sgd(), num_steps=steps, key=key, engine=reversible())
        )

    methods["reversible"] = exact
    results = {name: method() for name, method in methods.items()}  # compiles and warms up
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repeats):
        for name, method in methods.items():
            began = time.perf_counter()
            method()
            seconds[name].append(time.perf_counter() - began)
    plain = statistics.median(seconds["plain training"])
    ratios = {
        name: statistics.median(t / p for t, p in zip(times, seconds["plain training"], strict=True))
        for name, times in seconds.items()
    }
    reference = results["jax.grad through scan"][1]
    result = results["reversible"]
    errors = {
        name: float(
            jnp.linalg.norm(result.gradient[name] - reference[name]) / jnp.linalg.norm(reference[name])
        )
        for name in hyper
    }
    memory["reversible"] = 0
    return {
        "seconds_plain": plain,
        "ratio": ratios,
        "memory_bytes": memory,
        "errors": errors,
        "certificate": result.certificate.as_dict(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    print(json.dumps(measure(args.steps, args.repeats, (50, 50, 50), 250, MOMENTUM), indent=1))
