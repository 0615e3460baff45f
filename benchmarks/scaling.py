"""How time and memory grow: with the number of steps, of parameters, with γ, and with the batch.

    python -m benchmarks.scaling

One thing is varied at a time from the yardstick (`benchmarks.yardstick`). Seconds are medians of three rounds (one,
where training is long); memory is XLA's own analysis of each program, none of which is run for it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from benchmarks.measure import RESULTS, clock, in_rounds, medians, ratios, write
from benchmarks.rivals import ENGINES, RECURSIVE, SCAN, SQRT, call, compile_rival, working_bytes
from benchmarks.yardstick import KEY, Case, plain_training, yardstick
from core.engines import hypergradient, reversible
from core.engines.reversible import working_memory

PLAIN, REVERSIBLE = "plain training", "reversible"
REPEATS = 3
WIDTHS = {12: 1000, 50: 300, 115: 200, 720: 40, 2800: 10}  # of three hidden layers: 10⁴ … 2·10⁷ parameters; steps
TIMED_UP_TO = 1000  # steps at which checkpointing is timed too


def measure(what: str, value: float, case: Case) -> dict[str, Any]:
    """One row."""
    # neither rivals' time nor their memory depends on momentum
    programs = {name: compile_rival(name, case) for name in ENGINES} if what != "momentum" else {}
    methods = {
        PLAIN: plain_training(case),
        REVERSIBLE: lambda: hypergradient(**case.arguments(), engine=reversible()),
    }
    certificate = methods[REVERSIBLE]().certificate
    if case.steps <= TIMED_UP_TO:
        methods |= {name: call(programs[name], case) for name in (SQRT, RECURSIVE) if name in programs}
        seconds = in_rounds(methods, REPEATS)
    else:  # minutes each, beside which the cost of a first call is small
        seconds = {name: [clock(method)] for name, method in methods.items()}
    shapes = jax.eval_shape(case.problem.init, case.hyper, KEY)
    return {
        "varied": what,
        "value": value,
        "steps": case.steps,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(shapes)),
        "seconds": medians(seconds),
        "ratio": ratios(seconds, PLAIN),
        "working_bytes": {name: working_bytes(program) for name, program in programs.items()}
        | {REVERSIBLE: working_memory(case.problem, case.hyper, case.optimizer, case.steps, KEY)},
        "stored_bits_per_param_step": certificate.stored_bits_per_param_step,
        "bound_bits_per_param_step": certificate.bound_bits_per_param_step,
        "mismatched_bits": certificate.mismatched_bits,
    }


def cases() -> list[tuple[str, float, Any]]:
    """What is varied, to which value, and how its case is made."""
    return [
        *(("steps", steps, lambda steps=steps: yardstick(steps)) for steps in (100, 1000, 10_000, 100_000)),
        *(
            ("width", width, lambda width=width, steps=steps: yardstick(steps, hidden=(width,) * 3))
            for width, steps in WIDTHS.items()
        ),
        *(
            ("momentum", momentum, lambda momentum=momentum: yardstick(1000, momentum=momentum))
            for momentum in (0.01, 0.3, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999)
        ),
        *(
            ("batch", batch, lambda batch=batch: yardstick(300, batch=batch))
            for batch in (10, 50, 250, 1000, 4000)
        ),
    ]


def show(rows: list[dict[str, Any]]) -> None:
    """Print a table for each thing that is varied."""
    console = Console(width=150)
    for what in dict.fromkeys(row["varied"] for row in rows):
        table = Table(
            what,
            "T",
            "parameters",
            "plain, s",
            "reversible ÷ plain",
            "√T ÷ plain",
            "recursive ÷ plain",
            "reversible",
            "√T",
            "recursive",
            "scan, MB",
            "stored / bound bits",
            "differing bits",
        )
        for row in rows:
            if row["varied"] != what:
                continue
            ratio = row["ratio"]
            table.add_row(
                f"{row['value']:g}",
                str(row["steps"]),
                str(row["parameters"]),
                f"{row['seconds'][PLAIN]:.3f}",
                *(f"{ratio[name]:.2f}" if name in ratio else "" for name in (REVERSIBLE, SQRT, RECURSIVE)),
                *(
                    f"{row['working_bytes'][name] / 1e6:.1f}" if name in row["working_bytes"] else ""
                    for name in (REVERSIBLE, SQRT, RECURSIVE, SCAN)
                ),
                f"{row['stored_bits_per_param_step']:.4f} / {row['bound_bits_per_param_step']:.4f}",
                str(row["mismatched_bits"]),
            )
        console.print(table)


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", help="one of: steps, width, momentum, batch; the others stay as they are in the file"
    )
    parser.add_argument("--json", type=Path, default=RESULTS / "scaling.json")
    arguments = parser.parse_args()
    rows = json.loads(arguments.json.read_text()) if arguments.only and arguments.json.exists() else []
    rows = [row for row in rows if row["varied"] != arguments.only]
    for what, value, make in cases():
        if arguments.only in (None, what):
            rows.append(measure(what, value, make()))
            print(f"measured {what} = {value:g}", flush=True)
    show(rows)
    write(arguments.json, rows)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
