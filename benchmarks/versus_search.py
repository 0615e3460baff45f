"""Search, descent, and search then descent, with the same budget of training runs.

    RETROGRAD_DATA=/path/to/data python -m benchmarks.versus_search

The problem is the preset `learning-rate-schedules`. A budget is counted in training-run equivalents: a trial of the
search is one, a meta-iteration of the descent as many as it takes in trials' seconds, a look of the safeguard one for
each of its seeds. The lowest of many trials on one seed each is partly luck, so there is a search that spends a part of
its budget on trying its best anew. What each finds is judged by the training loss on 20 seeds that none has seen.
"""

from __future__ import annotations

import argparse
import math
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
from core.records import Trial, Values
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
FINALISTS = 5  # trials that are tried anew, each on as many other seeds


class Contender(NamedTuple):
    """How a budget is spent."""

    trials: int
    meta_step: float | None  # of the descent; None: no descent
    guarded: bool = False
    tried_anew: bool = False  # the best trials of the search


CONTENDERS = {
    "TPE over three scalars": Contender(BUDGET, None),
    "TPE over three scalars, its best 5 tried anew on 5 seeds": Contender(
        BUDGET - FINALISTS**2, None, tried_anew=True
    ),
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
    """Seconds of a meta-iteration to those of a trial: both compiled, medians of pairs."""
    job = learner(REPEATS + 1, num_iterations=REPEATS + 1)
    trials, records, ratios = job.search([]), job.run(), []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        next(trials)
        tried = time.perf_counter() - began
        began = time.perf_counter()
        next(records)
        ratios.append((time.perf_counter() - began) / tried)
    return statistics.median(ratios[1:])


def spend(contender: Contender, ratio: float) -> tuple[Values, dict[str, Any]]:
    """What a contender finds, and how it spent its budget."""
    trials = list(learner(contender.trials).search([])) if contender.trials else []
    found: dict[str, Any] = {"trials": len(trials), "meta_iterations": 0, "spent": float(len(trials))}
    if trials:
        found["best_trial"] = best_of(trials).outer_loss
    if contender.tried_anew:
        found["spent"] += FINALISTS**2
        return _best_anew(trials), found
    start = learner().start(trials)
    if contender.meta_step is None:
        return start, found
    meta: dict[str, Any] = {"step_size": contender.meta_step, "evaluation_seeds": LOOK}
    if contender.guarded:
        meta["safeguard"] = SAFEGUARD

    def cost(iterations: int) -> float:
        looks = 1 + math.ceil(iterations / SAFEGUARD["every"]) if contender.guarded else 0  # at the start, too
        return ratio * iterations + LOOK * looks

    left = BUDGET - len(trials)
    meta["num_iterations"] = max(number for number in range(1, BUDGET) if cost(number) <= left)
    records = list(learner(**meta).run(start=start))
    found["meta_iterations"] = len(records)
    found["spent"] += cost(len(records))
    return records[-1].checkpoint.values, found


def _best_anew(trials: list[Trial]) -> Values:
    """The trial with the lowest mean loss on other seeds, of those that were best on their own."""
    ended = sorted((one for one in trials if one.outer_loss is not None), key=lambda one: one.outer_loss)
    job = learner(evaluation_seeds=LOOK + SEEDS + FINALISTS)
    seeds = range(LOOK + SEEDS, LOOK + SEEDS + FINALISTS)

    def again(trial: Trial) -> float:
        values = job.start([trial])
        return float(np.mean([job.evaluate_on(values, number).losses.outer for number in seeds]))

    return job.start([min(ended[:FINALISTS], key=again)])


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
    spec_sha256 = presets.get("learning-rate-schedules").sha256()
    found: dict[str, Any] = {"budget": BUDGET, "cost_ratio": ratio, "spec_sha256": spec_sha256, "methods": {}}
    for name, contender in CONTENDERS.items():
        values, spent = spend(contender, ratio)
        losses = judge(values)
        mean, error = float(np.mean(losses)), float(np.std(losses, ddof=1) / np.sqrt(len(losses)))
        found["methods"][name] = spent | {"mean": mean, "standard_error": error, "losses": losses}
        table.add_row(name, str(spent["trials"]), str(spent["meta_iterations"]), f"{mean:.4f}", f"{error:.4f}")
    console = Console(width=150)
    console.print(f"Budget {BUDGET} training runs; a hypergradient counts as {ratio:.2f} of them.")
    console.print(table)
    write(arguments.json, found)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
