"""A training of a million steps, run backward: differing bits, device memory, stored bits against the bound.

    python -m benchmarks.long_training [--steps 1000000] [--json FILE]

A small net (5-7-1, tanh, float64), batches drawn anew in every step, and step size and momentum of every step and
group drawn at random, γ in [0.3, 0.999]. Memory is XLA's own analysis of the program that runs backward; what grows
with the number of steps there is the schedule, an argument, and its gradient, a result.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.measure import RESULTS, write
from core.engines import Problem, hypergradient, reversible, sgd
from core.engines.reversible import working_memory

KEY = jax.random.key(0)


def small_net() -> Problem:
    """Regression of a sine on 64 points."""
    inputs = jax.random.normal(jax.random.key(1), (64, 5), jnp.float64)
    targets = jnp.sin(inputs[:, 0])

    def loss(params: Any, rows: Any) -> jax.Array:
        hidden = jnp.tanh(inputs[rows] @ params["hidden"])
        return jnp.mean((hidden @ params["out"] - targets[rows]) ** 2)

    return Problem(
        init=lambda hyper, key: {
            "hidden": 0.5 * jax.random.normal(key, (5, 7), jnp.float64),
            "out": 0.3 * jax.random.normal(jax.random.fold_in(key, 1), (7,), jnp.float64),
        },
        inner_loss=lambda params, hyper, step, key: loss(params, jax.random.randint(key, (16,), 0, 64)),
        outer_loss=lambda params, hyper, key: loss(params, slice(None)),
        schedule=lambda hyper: hyper,
    )


def random_schedule(steps: int) -> dict[str, jax.Array]:
    """Step sizes and momenta of every step and group."""
    first, second = jax.random.split(jax.random.key(2))
    return {
        "step_size": jax.random.uniform(first, (steps, 2), minval=0.01, maxval=0.1),
        "momentum": jax.random.uniform(second, (steps, 2), minval=0.3, maxval=0.999),
    }


def measure(steps: int) -> dict[str, Any]:
    """One hypergradient, and the memory of shorter runs beside it."""
    problem = small_net()
    lengths = [length for length in (100, 10_000) if length < steps] + [steps]
    memory = {length: working_memory(problem, random_schedule(length), sgd(), length, KEY) for length in lengths}
    began = time.perf_counter()
    result = hypergradient(
        problem, random_schedule(steps), optimizer=sgd(), num_steps=steps, key=KEY, engine=reversible()
    )
    norms = {name: float(jnp.linalg.norm(leaf)) for name, leaf in result.gradient.items()}
    return {
        "steps": steps,
        "hyperparameters": 4 * steps,
        "seconds": time.perf_counter() - began,
        "value": float(result.value),
        "gradient_norm": norms,
        "device_bytes": memory,
        "certificate": result.certificate.as_dict(),
    }


def main() -> None:
    """Measure, print, and write JSON."""
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, default=RESULTS / "long-training.json")
    arguments = parser.parse_args()
    found = measure(arguments.steps)
    proof = found["certificate"]
    stored, bound = proof["stored_bits_per_param_step"], proof["bound_bits_per_param_step"]
    print(f"T = {found['steps']}, {found['hyperparameters']} hyperparameters: {found['seconds']:.0f} s")
    print(f"differing bits: {proof['mismatched_bits']} {proof['mismatched_bits_by_field']}")
    print("device memory:", ", ".join(f"T = {length}: {size} B" for length, size in found["device_bytes"].items()))
    print(f"stored bits per weight and step: {stored:.5f}; bound: {bound:.5f}; ratio {stored / bound:.5f}")
    print(f"outer loss {found['value']:.4g}; gradient norms {found['gradient_norm']}")
    write(arguments.json, found)


if __name__ == "__main__":
    main()
