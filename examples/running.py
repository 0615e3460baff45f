"""What the examples have in common: a job, followed to its end, and its losses before and after."""

from __future__ import annotations

import argparse
from typing import Any

from retrograd.client import Client, Job


def iterations(example: str | None, default: int) -> int:
    """Meta-iterations, as asked for on the command line."""
    parser = argparse.ArgumentParser(description=example)
    parser.add_argument("--iterations", type=int, default=default, help="meta-iterations to learn for")
    return int(parser.parse_args().iterations)


def learned(client: Client, spec: dict[str, Any]) -> Job:
    """The job after it has succeeded."""
    job = client.jobs.create(spec).wait()
    if job.state != "succeeded":
        raise SystemExit(f"the job {job.state}: {job['error']}")
    print(f"{job.name}: {job['num_hyperparameters']} hyperparameters, exact: {job['certificate']['exact']}")
    for name in ("valid", "test"):
        before, after = (job["losses"][when] for when in ("initial", "best"))
        print(f"  {name} loss      {before[name]:8.4f} -> {after[name]:.4f}")
        for measure in ("accuracy", "rmse"):
            if (key := f"{name}_{measure}") in before["measures"]:
                print(f"  {key:<14} {before['measures'][key]:8.4f} -> {after['measures'][key]:.4f}")
    return job
