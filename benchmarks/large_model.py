"""More than five million hyperparameters at once: AdamW's step size in every step and weight decay of every weight.

    python -m benchmarks.large_model [--steps 2000] [--width 1500] [--batch 64] [--json FILE]

A net 784-width-width-width-10 in float32 on MNIST-sized noise. Prints seconds beside plain training in the same
process, peak resident memory of each, and the memory that unrolling would take, by XLA's analysis of its program.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from rich.console import Console
from rich.table import Table

from benchmarks.measure import RESULTS, once, write
from core.engines import Problem, adamw, hypergradient, reversible
from core.engines.floating import dynamics
from core.engines.reversible import working_memory

KEY = jax.random.key(0)


def deep_net(width: int, batch: int, steps: int) -> tuple[Problem, dict[str, Any]]:
    """Problem, and hyperparameters to start from."""
    sizes = (784, width, width, width, 10)
    inputs = jax.random.normal(jax.random.key(1), (10 * batch, 784), jnp.float32)
    labels = jax.random.randint(jax.random.key(2), (10 * batch,), 0, 10)

    def init(hyper: Any, key: jax.Array) -> Any:
        keys = jax.random.split(key, len(sizes) - 1)
        return [
            {
                "w": jax.random.normal(keys[i], sizes[i : i + 2], jnp.float32) / sizes[i] ** 0.5,
                "b": jnp.zeros(sizes[i + 1], jnp.float32),
            }
            for i in range(len(sizes) - 1)
        ]

    def loss(data: Any, params: Any) -> jax.Array:
        values, wanted = data
        for number, layer in enumerate(params):
            values = values @ layer["w"] + layer["b"]
            values = jnp.tanh(values) if number < len(params) - 1 else values
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(values), wanted[:, None], axis=1))

    def inner_loss(data: Any, params: Any, hyper: Any, step: jax.Array, key: jax.Array) -> jax.Array:
        rows = jax.random.randint(key, (batch,), 0, len(data[0]))
        return loss((data[0][rows], data[1][rows]), params)

    problem = Problem(
        init=init,
        inner_loss=Partial(inner_loss, (inputs, labels)),
        outer_loss=Partial(lambda data, params, hyper, key: loss(data, params), (inputs[:1000], labels[:1000])),
        schedule=lambda hyper: {
            "step_size": jnp.exp(hyper["log_step_size"]),
            "weight_decay": jax.tree.map(jnp.exp, hyper["log_decay"]),
        },
    )
    shapes = jax.eval_shape(problem.init, None, KEY)
    return problem, {
        "log_step_size": jnp.full(steps, jnp.log(3e-4), jnp.float32),
        "log_decay": jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.log(0.1), jnp.float32), shapes),
    }


def trained_loss(problem: Problem, hyper: Any, steps: int) -> jax.Array:
    """Outer loss after plain training."""
    state, take = dynamics(problem, hyper, KEY, adamw(), steps)
    state, _ = jax.lax.scan(take, state, jnp.arange(steps))
    return problem.outer_loss(state.position, hyper, KEY)


def measure(steps: int, width: int, batch: int) -> dict[str, Any]:
    """Plain training, then the hypergradient."""
    problem, hyper = deep_net(width, batch, steps)
    sizes = [leaf.size for leaf in jax.tree.leaves(hyper["log_decay"])]
    differentiated = jax.jit(jax.grad(trained_loss, argnums=1), static_argnums=2).lower(problem, hyper, steps)
    unrolling = differentiated.compile().memory_analysis().temp_size_in_bytes
    plain = jax.jit(trained_loss, static_argnums=2).lower(problem, hyper, steps).compile()
    value, plain_seconds, plain_bytes = once(lambda: plain(problem, hyper))
    arguments: dict[str, Any] = {"optimizer": adamw(), "num_steps": steps, "key": KEY, "engine": reversible()}
    device = working_memory(problem, hyper, adamw(), steps, KEY)
    result, seconds, peak = once(lambda: hypergradient(problem, hyper, **arguments))
    return {
        "steps": steps,
        "parameters": sum(sizes),
        "hyperparameters": sum(sizes) + steps,
        "batch": batch,
        "plain_seconds": plain_seconds,
        "plain_peak_bytes": plain_bytes,
        "seconds": seconds,
        "ratio": seconds / plain_seconds,
        "peak_bytes": peak,
        "device_bytes": device,
        "unrolled_device_bytes": unrolling,
        "value": float(result.value),
        "plain_value": float(value),
        "gradient_norm": {
            "log_step_size": float(jnp.linalg.norm(result.gradient["log_step_size"])),
            "log_decay": float(
                jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(result.gradient["log_decay"])))
            ),
        },
        "certificate": result.certificate.as_dict(),
    }


def show(found: dict[str, Any]) -> None:
    """Print what was measured."""
    proof = found["certificate"]
    rows = Table(
        f"AdamW, T = {found['steps']}, batch {found['batch']}",
        "plain training",
        "hypergradient",
        title=f"{found['parameters']} weights, {found['hyperparameters']} hyperparameters",
    )
    rows.add_row(
        "seconds (compiled before, while)", *(f"{found[key]:.1f}" for key in ("plain_seconds", "seconds"))
    )
    rows.add_row("ratio", "1", f"{found['ratio']:.2f}")
    rows.add_row(
        "peak resident memory, GB", *(f"{found[k] / 1e9:.2f}" for k in ("plain_peak_bytes", "peak_bytes"))
    )
    rows.add_row("working memory on the device, GB", "", f"{found['device_bytes'] / 1e9:.2f}")
    rows.add_row("the same, if unrolled, GB", "", f"{found['unrolled_device_bytes'] / 1e9:.1f}")
    rows.add_row("outer loss", *(f"{found[key]:.4f}" for key in ("plain_value", "value")))
    rows.add_row("differing bits", "", str(proof["mismatched_bits"]))
    rows.add_row("stored bits per weight and step", "", f"{proof['stored_bits_per_param_step']:.4f}")
    rows.add_row("bound", "", f"{proof['bound_bits_per_param_step']:.4f}")
    Console().print(rows)
    print(f"differing bits: {proof['mismatched_bits_by_field']}; gradient norms: {found['gradient_norm']}")


def main() -> None:
    """Measure, print, and write JSON."""
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--width", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--json", type=Path, default=RESULTS / "large-model.json")
    arguments = parser.parse_args()
    found = measure(arguments.steps, arguments.width, arguments.batch)
    show(found)
    write(arguments.json, found)


if __name__ == "__main__":
    main()
