"""Search, descent, and search then descent, with the same budget of training runs.

    RETROGRAD_DATA=/path/to/data python -m benchmarks.versus_search

The problem is the preset `learning-rate-schedules`. A budget is counted in training-run equivalents: a trial of the
search is one, a meta-iteration of the descent as many as a hypergradient takes. Looks of the safeguard are
counted too. What each finds is judged by the training loss on 20 seeds that none of them has seen.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.measure import RESULTS, write
from core import presets
from core.learning import Learner
from core.records import Values
from core.search import best_of
from core.spec import JobSpec

BUDGET = 225  # training runs
SEARCHED_FIRST = 90  # of these, where both take part
SEEDS = 20
REPEATS = 5
SEARCH = {
    "step_size": {"low": 0.05, "high": 10.0},
    "momentum": {"low": 0.05, "high": 0.98},
    "init_scale": {"low": 0.01, "high": 0.5},
}
SAFEGUARD = {"every": 5, "shrink": 0.5}
LOOK = 2  # evaluation seeds of a look


class Contender(NamedTuple):
    """How a budget is spent."""

    trials: int
    meta_step: float | None  # of the descent; None: no descent
    guarded: bool = False


CONTENDERS = {
    "TPE over three scalars": Contender(BUDGET, None),
    "descent, meta step 0.04": Contender(0, 0.04),
    "descent, meta step 0.08": Contender(0, 0.08),
    "descent, meta step 0.15, guarded": Contender(0, 0.15, guarded=True),
    "search, then descent, meta step 0.08": Contender(SEARCHED_FIRST, 0.08),
    "search, then descent, meta step 0.08, guarded": Contender(SEARCHED_FIRST, 0.08, guarded=True),
}


def learner(trials: int = 1, **meta: Any) -> Learner:
    """Of the preset with another outer loop."""
    document = presets.get("learning-rate-schedules").model_dump(mode="json")
    warm = {"warm_start": {"trials": max(trials, 1), "search": SEARCH}}
    document["meta"] = {"optimizer": "adam", "num_iterations": 1, "step_size": 0.04} | warm | meta
    return Learner.from_spec(JobSpec.model_validate(document))


def cost_ratio() -> float:
    """Seconds of a hypergradient to those of a training run: both compiled, medians of pairs."""
    job = learner(num_iterations=REPEATS + 1, evaluation_seeds=1)
    ratios = []
    records = job.run()
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        job.evaluate(job.initial())
        trained = time.perf_counter() - began
        began = time.perf_counter()
        next(records)
        ratios.append((time.perf_counter() - began) / trained)
    return statistics.median(ratios[1:])


def spend(contender: Contender, ratio: float) -> tuple[Values, dict[str, Any]]:
    """What a contender finds, and how it spent its budget."""
    trials = list(learner(contender.trials).search([])) if contender.trials else []
    start = learner().start(trials)
    if contender.meta_step is None:
        return start, {"trials": len(trials), "meta_iterations": 0, "best_trial": best_of(trials).outer_loss}
    meta: dict[str, Any] = {"step_size": contender.meta_step, "evaluation_seeds": LOOK}
    each = ratio
    if contender.guarded:
        meta["safeguard"] = SAFEGUARD
        each += LOOK / SAFEGUARD["every"]
    meta["num_iterations"] = int((BUDGET - len(trials)) / each)
    records = list(learner(**meta).run(start=start))
    found = {"trials": len(trials), "meta_iterations": len(records)}
    return records[-1].checkpoint.values, found


def judge(values: Values) -> list[float]:
    """Training losses on seeds that nobody has seen."""
    judged = []
    job = learner(evaluation_seeds=LOOK + SEEDS)
    for number in range(LOOK, LOOK + SEEDS):
        judged.append(job.evaluate_on(values, number).losses.outer)
    return judged


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=RESULTS / "versus-search.json")
    arguments = parser.parse_args()
    ratio = cost_ratio()
    table = Table("method", "trials", "meta-iterations", f"training loss, {SEEDS} fresh seeds", "standard error")
    found: dict[str, Any] = {"budget": BUDGET, "cost_ratio": ratio, "methods": {}}
    for name, contender in CONTENDERS.items():
        values, spent = spend(contender, ratio)
        losses = judge(values)
        mean, error = float(np.mean(losses)), float(np.std(losses, ddof=1) / np.sqrt(len(losses)))
        found["methods"][name] = spent | {"mean": mean, "standard_error": error}
        table.add_row(name, str(spent["trials"]), str(spent["meta_iterations"]), f"{mean:.4f}", f"{error:.4f}")
    console = Console(width=150)
    console.print(f"Budget {BUDGET} training runs; a hypergradient counts as {ratio:.2f} of them.")
    console.print(table)
    write(arguments.json, found)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
