"""How a worker's process grows over thirty short jobs of differing shapes, and what clearing up between them gives.

    python -m benchmarks.warm_worker

Each policy has a process of its own; its first job is left out of the growth, as it loads JAX and XLA's compilers.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time

JOBS = 30
POLICIES = ("nothing", "caches", "caches and heap")


def spec(number: int) -> dict:
    """The number decides depth, width, optimizer and steps, so that no program of one job fits another."""
    hidden = [8 + 3 * number] * (1 + number % 3)
    optimizer = ("sgd", "heavy_ball", "nesterov", "rmsprop", "adam")[number % 5]
    return {
        "name": f"job {number}",
        "problem": {
            "kind": "classifier",
            "dataset": {"name": "digits", "split": {"train": 1000, "valid": 300, "test": 300}},
            "model": {"kind": "mlp", "hidden": hidden, "activation": "tanh"},
            "outer_loss": "valid",
        },
        "training": {"optimizer": optimizer, "num_steps": 20 + number, "batch_size": 100, "seed": "fresh"},
        "hyperparameters": {"step_size": {"learn": True, "per": ["step", "group"], "initial": 0.01}},
        "meta": {"num_iterations": 3, "evaluation_seeds": 1},
    }


def run(policy: str) -> None:
    """Do the jobs in this process, printing a line for each."""
    from core.learning import Learner
    from core.spec import JobSpec
    from worker import memory, tidy

    for number in range(JOBS):
        began = time.perf_counter()
        learner = Learner.from_spec(JobSpec.model_validate(spec(number)))
        for _ in learner.run():
            pass
        del learner, _
        worked = time.perf_counter()
        if policy != "nothing":
            tidy.forget_programs()
        gc.collect()
        if policy == "caches and heap":
            tidy.trim_heap()
        print(json.dumps([memory.held() / 2**20, worked - began, time.perf_counter() - worked]), flush=True)


def main() -> None:
    """Compare the policies."""
    print(f"{JOBS} jobs, each in MiB held after it; seconds a job, and for clearing up")
    for policy in POLICIES:
        environ = os.environ | {"JAX_ENABLE_X64": "1"}
        command = [sys.executable, "-m", "benchmarks.warm_worker", policy]
        rows = []
        with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                rows.append(json.loads(line))
                print(f"{policy:16} {len(rows):2} {rows[-1][0]:5.0f}", end="\r", flush=True)
        held, seconds, clearing = zip(*rows, strict=True)
        growth = (held[-1] - held[0]) / (len(rows) - 1)
        print(
            f"{policy:16} first {held[0]:5.0f}  tenth {held[9]:5.0f}  last {held[-1]:5.0f}  "
            f"({growth:+.1f} a job)  {sum(seconds) / len(rows):.2f} s, {sum(clearing) / len(rows):.3f} s"
        )


if __name__ == "__main__":
    run(sys.argv[1]) if len(sys.argv) > 1 else main()
