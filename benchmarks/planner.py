"""What the planner predicts beside what is then measured, for every engine on three problems.

    python -m benchmarks.planner

Seconds are the median of three calls after a first one. Memory is the rise of resident memory during a call, in a
process of its own for each engine; on a CPU it is device and host memory in one, so the prediction is of both at once.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from benchmarks.measure import RESULTS, clock, peak_rise, printed_by, write
from benchmarks.yardstick import Case, yardstick
from core.engines import Engine, Problem, hypergradient, plan
from core.engines.planner import Prediction, all_engines

REPEATS = 3


def few_hyperparameters(case: Case) -> Case:
    """The same training with three hyperparameters, so that forward mode takes part."""
    steps, problem = case.steps, case.problem

    def spread(hyper: Any) -> Any:
        return {
            "step_size": jnp.full(case.hyper["step_size"].shape, hyper["step_size"]),
            "momentum": jnp.full(case.hyper["momentum"].shape, hyper["momentum"]),
            "init_scale": jnp.full(case.hyper["init_scale"].shape, hyper["init_scale"]),
        }

    few = Problem(
        init=lambda hyper, key: problem.init(spread(hyper), key),
        inner_loss=problem.inner_loss,
        outer_loss=problem.outer_loss,
        schedule=lambda hyper: problem.schedule(spread(hyper)),
    )
    return Case(few, {name: leaf.ravel()[0] for name, leaf in case.hyper.items()}, case.optimizer, steps)


def problems() -> dict[str, Case]:
    """The three."""
    return {
        "784-300-300-300-10, SGD, 3 hyperparameters": few_hyperparameters(yardstick(300, hidden=(300,) * 3)),
        "784-400-400-400-10, SGD, γ = 0.5": yardstick(200, hidden=(400,) * 3, momentum=0.5),
        "logistic regression 3000-100, Adam, penalties": yardstick(
            300, "adam", features=3000, hidden=(), classes=100, l2=1e-3
        ),
    }


def compare(name: str, case: Case) -> list[dict[str, Any]]:
    """Every engine's prediction, and its measurement."""
    planned = plan(**case.arguments(), engines=all_engines(case.hyper, case.steps))
    return [row(name, case, prediction) for prediction in planned.predictions]


def row(name: str, case: Case, prediction: Prediction) -> dict[str, Any]:
    """One engine."""
    call = call_of(case, prediction.engine)
    try:
        clock(call)
    except Exception as error:
        return {"engine": prediction.name, "remark": f"{type(error).__name__}: {error}"}
    seconds = statistics.median(clock(call) for _ in range(REPEATS))
    taken = printed_by("benchmarks.planner", "--rise", name, prediction.name)
    foretold = prediction.memory.at_once_bytes
    return {
        "engine": prediction.name,
        "predicted_seconds": prediction.seconds,
        "seconds": seconds,
        "predicted_device_bytes": prediction.memory.device_bytes,
        "predicted_host_bytes": prediction.memory.host_bytes,
        "predicted_bytes": foretold,
        "peak_rise_bytes": taken,
        "seconds_off": prediction.seconds / seconds - 1,
        "bytes_off": foretold / taken - 1,
        "remark": prediction.remark,
    }


def call_of(case: Case, engine: Engine) -> Callable[[], Any]:
    """A hypergradient by this engine."""
    return lambda: hypergradient(**case.arguments(), engine=engine)[:3]


def rise(case: Case, name: str) -> int:
    """Bytes by which resident memory peaks during a call of the engine with this name."""
    call = call_of(case, next(engine for engine in all_engines(case.hyper, case.steps) if engine.name == name))
    clock(call)
    return int(statistics.median(peak_rise(call) for _ in range(REPEATS)))


def show(found: dict[str, list[dict[str, Any]]]) -> None:
    """Print a table for each problem, in the planner's order."""
    console = Console(width=150)
    for name, rows in found.items():
        columns = ("engine", "predicted, s", "measured, s", "off", "predicted, MB", "measured, MB", "off", "")
        table = Table(*columns, title=name)
        for one in rows:
            if "seconds" not in one:
                table.add_row(one["engine"], *[""] * 6, one["remark"][:60])
                continue
            table.add_row(
                one["engine"],
                f"{one['predicted_seconds']:.2f}",
                f"{one['seconds']:.2f}",
                f"{one['seconds_off']:+.0%}",
                f"{one['predicted_bytes'] / 1e6:.1f}",
                f"{one['peak_rise_bytes'] / 1e6:.1f}",
                f"{one['bytes_off']:+.0%}",
                one["remark"][:60],
            )
        console.print(table)


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=RESULTS / "planner.json")
    parser.add_argument(
        "--rise", nargs=2, metavar=("PROBLEM", "ENGINE"), help="only print what memory rises by, as JSON"
    )
    arguments = parser.parse_args()
    if arguments.rise is not None:
        problem, engine = arguments.rise
        print(json.dumps(rise(problems()[problem], engine)))
        return
    found = {name: compare(name, case) for name, case in problems().items()}
    show(found)
    write(arguments.json, found)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
