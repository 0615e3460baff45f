"""The reversible engine beside its rivals, in one process, for SGD and for Adam; and targets beside what was measured.

    python -m benchmarks.engines [--steps 1000] [--repeats 5]

Every method computes the same hypergradient of the yardstick (`benchmarks.yardstick`). A round times every method
once, each after an untimed call of its own; ratios to plain training are taken within a round, and medians are quoted.
Methods in PyTorch are quoted against plain training in JAX too, as that is what a user would have instead.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from benchmarks.integer_scheme import integer_hypergradient
from benchmarks.measure import RESULTS, Methods, in_rounds, medians, peak_rise, ratios, write
from benchmarks.rivals import RECURSIVE, SCAN, SQRT, call, compile_rival, working_bytes
from benchmarks.rivals_torch import plain, torch_rivals
from benchmarks.yardstick import KEY, plain_training, yardstick
from core.engines import hypergradient, reversible
from core.engines.reversible import working_memory

PLAIN, REVERSIBLE, INTEGER = "plain training", "reversible (ours)", "integer scheme of 2015"
TORCH = "plain training in PyTorch"
SHORT, LONG = 100, 10_000
RATIO = {"sgd": (3.4, 3.0), "adam": (3.8, 3.2)}  # target and stretch


def measure(steps: int, optimizer: str, repeats: int) -> dict[str, Any]:
    """Seconds, ratios, memory and agreement of all methods."""
    case = yardstick(steps, optimizer)
    programs = {name: compile_rival(name, case) for name in (SCAN, SQRT, RECURSIVE)}
    methods: Methods = {PLAIN: plain_training(case)}
    methods |= {name: call(program, case) for name, program in programs.items()}
    methods[REVERSIBLE] = lambda: hypergradient(**case.arguments(), engine=reversible())
    if optimizer == "sgd":
        methods[INTEGER] = lambda: integer_hypergradient(case.problem, case.hyper, steps, KEY)[:2]
    methods[TORCH] = plain(optimizer, steps)
    methods |= torch_rivals(optimizer, steps)
    results = {name: method() for name, method in methods.items()}  # compiles and warms up
    exact, oracle = results[REVERSIBLE], results[SCAN][1]
    seconds = in_rounds(methods, repeats)
    return {
        "optimizer": optimizer,
        "steps": steps,
        "repeats": repeats,
        "seconds": medians(seconds),
        "ratio": ratios(seconds, PLAIN),
        "working_bytes": {name: working_bytes(program) for name, program in programs.items()}
        | {REVERSIBLE: working_memory(case.problem, case.hyper, case.optimizer, steps, KEY)},
        "peak_rise_bytes": {name: peak_rise(method) for name, method in methods.items()},
        "relative_difference_to_scan": {
            name: float(jnp.linalg.norm(exact.gradient[name] - oracle[name]) / jnp.linalg.norm(oracle[name]))
            for name in oracle
        },
        "certificate": exact.certificate.as_dict(),
    }


def growth(optimizer: str) -> dict[str, Any]:
    """Of the reversible engine alone: working memory at two lengths, and the certificate of the longer."""
    memory = {}
    for steps in (SHORT, LONG):
        case = yardstick(steps, optimizer)
        memory[steps] = working_memory(case.problem, case.hyper, case.optimizer, steps, KEY)
    certificate = hypergradient(**case.arguments(), engine=reversible()).certificate
    return {"working_bytes": memory, "certificate": certificate.as_dict()}


def random_momenta() -> dict[str, Any]:
    """The certificate of a long run whose momentum is drawn anew for every step and group, in [0.3, 0.999]."""
    case = yardstick(LONG)
    drawn = jax.random.uniform(jax.random.key(7), case.hyper["momentum"].shape, minval=0.3, maxval=0.999)
    hyper = case.hyper | {"momentum": jnp.log(drawn) - jnp.log1p(-drawn)}
    arguments = case._replace(hyper=hyper).arguments()
    return hypergradient(**arguments, engine=reversible()).certificate.as_dict()


def targets(tables: list[dict[str, Any]], long: dict[str, Any], random: dict[str, Any]) -> list[dict[str, Any]]:
    """What is aimed at, and what was found: {what, measured, target, stretch}."""
    rows = []
    for table in tables:
        name, ratio = table["optimizer"], table["ratio"]
        target, stretch = RATIO[name]
        rows.append((f"{name}: reversible ÷ plain training", ratio[REVERSIBLE], target, stretch))
        rows += [
            (f"{name}: reversible ÷ {rival}", ratio[REVERSIBLE] / ratio[rival], 1.0, None)
            for rival in ratio
            if rival not in (PLAIN, TORCH, REVERSIBLE)
        ]
    for name, grown in long.items():
        short, at_length = grown["working_bytes"][SHORT], grown["working_bytes"][LONG]
        rows.append((f"{name}: memory at T = {LONG} ÷ T = {SHORT}", at_length / short, 1.05, None))
    for what, proof in {"γ = 0.9": long["sgd"]["certificate"], "γ random": random}.items():
        stored, bound = proof["stored_bits_per_param_step"], proof["bound_bits_per_param_step"]
        rows.append((f"sgd, T = {LONG}, {what}: stored ÷ bound bits", stored / bound, 1.05, 1.01))
        rows.append((f"sgd, T = {LONG}, {what}: differing bits", proof["mismatched_bits"], 0, 0))
    proof = long["adam"]["certificate"]
    rows.append((f"adam, T = {LONG}: differing bits", proof["mismatched_bits"], 0, 0))
    return [dict(zip(("what", "measured", "target", "stretch"), row, strict=True)) for row in rows]


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    console = Console(width=130)
    for table in found["tables"]:
        title = f"{table['optimizer']}, T = {table['steps']}, medians of {table['repeats']} rounds"
        rows = Table("method", "seconds", "× plain", "working memory", "peak resident rise", title=title)
        for name, seconds in table["seconds"].items():
            rows.add_row(
                name,
                f"{seconds:.3f}",
                f"{table['ratio'][name]:.2f}",
                *(
                    f"{table[kind][name] / 1e6:.1f} MB" if name in table[kind] else ""
                    for kind in ("working_bytes", "peak_rise_bytes")
                ),
            )
        console.print(rows)
        proof = table["certificate"]
        console.print(
            f"{proof['mode']}, {proof['mismatched_bits']} differing bits, on {proof['device']}; ", end=""
        )
        console.print(f"relative difference to float32 jax.grad: {table['relative_difference_to_scan']}")
    checks = Table("what", "measured", "target", "stretch", "")
    for row in found["targets"]:
        verdict = "missed"
        if row["measured"] <= row["target"]:
            reaches = row["stretch"] is not None and row["measured"] <= row["stretch"]
            verdict = "stretch" if reaches else "met"
        stretch = "" if row["stretch"] is None else f"≤ {row['stretch']}"
        checks.add_row(row["what"], f"{row['measured']:.3f}", f"≤ {row['target']}", stretch, verdict)
    console.print(checks)


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=RESULTS / "engines.json")
    arguments = parser.parse_args()
    tables = [measure(arguments.steps, optimizer, arguments.repeats) for optimizer in RATIO]
    long, random = {optimizer: growth(optimizer) for optimizer in RATIO}, random_momenta()
    found = {"tables": tables, "long": long, "random_momenta": random, "targets": targets(tables, long, random)}
    show(found)
    write(arguments.json, found)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
