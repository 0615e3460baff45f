"""Run presets as a user would, over HTTP, and keep what they found: → `benchmarks/results/experiments.json`.

    RETROGRAD_DATA=/path/to/data python -m benchmarks.experiments [PRESET ...]

All presets unless some are named; a row is replaced when its preset is run again. Jobs go to the server that
RETROGRAD_URL names, else to an embedded stack that lives as long as the command. Result documents and figures are saved
in `outputs/experiments/PRESET/`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.measure import RESULTS, write
from core import presets
from retrograd.client import Client
from retrograd.home import Home
from retrograd.local.stack import Stack

FILE = RESULTS / "experiments.json"
OUTPUTS = Path(__file__).parents[1] / "outputs" / "experiments"
_LOSSES = ("outer", "train", "valid", "test")
_MARKED = (0.5, 1.0, 1.5, 2.0)  # log α at which the paper's figure 11 is read off
_CHAOS = 2.9  # log α from which on derivatives explode; in the paper from 2 on

Json = dict[str, Any]


def run(client: Client, preset: str, folder: Path) -> Json:
    """Queue the preset, wait for its end, save its documents and figures, and return its row.

    Raises:
        RuntimeError: the job did not succeed.
    """
    job = client.jobs.create(preset=preset).wait()
    if job.state != "succeeded":
        raise RuntimeError(f"{preset}: job {job.id} {job.state}: {job['error']}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    document = json.loads(job.download(folder / "result.json").read_text())
    rows = job.iterations()
    write(folder / "job.json", job.document)
    write(folder / "iterations.json", rows)
    for figure in job.figures():
        for form in ("png", "svg"):
            (folder / f"{figure['name']}.{form}").write_bytes(job.figure(figure["name"], form))
    return row_of(job.document, document, rows)


def row_of(job: Json, document: Json, rows: list[Json]) -> Json:
    """What the table says of an ended job."""
    spec = job["spec"]
    began, ended = (datetime.fromisoformat(job[name]) for name in ("started_at", "ended_at"))
    return {
        "spec_sha256": job["spec_sha256"],
        "kind": spec["kind"],
        "dataset": spec["problem"].get("dataset"),
        "num_hyperparameters": job["num_hyperparameters"],
        "meta_iterations": job["progress"]["meta_iteration"],
        "best_iteration": job["best_iteration"],
        "seconds": (ended - began).total_seconds(),
        "evaluation_seeds": spec["meta"]["evaluation_seeds"],
        "losses": job["losses"],
        "certificate": job["certificate"],
        "device": job["device"],
        "versions": job["provenance"]["versions"],
        "ended_at": job["ended_at"],
        "found": found(job, document, rows),
    }


def found(job: Json, document: Json, rows: list[Json]) -> Json:
    """What only some presets have: read off the result document and the meta-iterations."""
    learned = {name: np.array(one["values"], float) for name, one in document["hyperparameters"].items()}
    spec = job["spec"]
    result: Json = {}
    if spec["kind"] == "learn":
        if spec["hyperparameters"]["init_scale"] and "init_scale" in learned:
            result["init_scales"] = learned["init_scale"].tolist()
        if "augmentation" in learned:
            result["augmentation"] = learned["augmentation"].tolist()
        if "l2" in learned:
            values = learned["l2"].ravel()
            result["l2"] = dict(zip(("least", "median", "largest"), np.quantile(values, (0, 0.5, 1)), strict=True))
        if "task_mixing" in learned:
            result["correlation_of_tasks_by_layer"] = [_correlation(one) for one in learned["task_mixing"]]
    if spec["problem"]["kind"] == "toy":
        result["loss_at_each_meta_iteration"] = [row["outer_loss"] for row in rows]
    if spec["kind"] == "scan" and spec["scan"]["hyperparameter"] == "momentum":
        result["stored_bits"] = [_bits(row) for row in rows]
    elif spec["kind"] == "scan":
        result |= _chaos(rows)
    if (rows[-1]["diagnostics"] or {}).get("naive_reversal"):
        distances = rows[-1]["diagnostics"]["naive_reversal"]["distances"]
        result["naive_reversal"] = {"relative_error_at_the_start": distances[0]}
    if "hypergradient.step_size.mean" in document["measured"] and spec["seeds"]["count"] > 1:
        mean, deviation = (
            np.array(document["measured"][f"hypergradient.step_size.{what}"]["values"], float)
            for what in ("mean", "standard_deviation")
        )
        errors = deviation / np.sqrt(spec["seeds"]["count"])
        result["median_hypergradient_in_standard_errors"] = float(np.median(np.abs(mean) / errors))
    return result


def _correlation(mixing: np.ndarray) -> float:
    """Mean correlation of the weights of two different tasks, T being `mixing`."""
    covariance = mixing @ mixing.T
    deviations = np.sqrt(np.diag(covariance))
    correlations = covariance / np.outer(deviations, deviations)
    return float(correlations[~np.eye(len(mixing), dtype=bool)].mean())


def _bits(row: Json) -> Json:
    decay = float(1 / (1 + np.exp(-row["diagnostics"]["scan"]["value"])))
    return {
        "decay": decay,
        "bound": float(-np.log2(decay)),
        "stored": row["certificate"]["stored_bits_per_param_step"],
    }


def _chaos(rows: list[Json]) -> Json:
    """Where the derivative along a scan turns positive first, and how large it is before and after chaos begins."""
    scanned = [row["diagnostics"]["scan"] for row in rows]
    points = np.array([one["value"] for one in scanned])
    derivatives = np.array([np.nan if one["derivative"] is None else one["derivative"] for one in scanned])
    losses = np.array([np.nan if row["outer_loss"] is None else row["outer_loss"] for row in rows], float)
    signs = np.sign(derivatives[np.isfinite(derivatives)])
    positive = points[derivatives > 0]
    sizes = {"before": np.abs(derivatives[points < _CHAOS]), "after": np.abs(derivatives[points >= _CHAOS])}
    return {
        "loss_at": {f"{mark:g}": float(losses[np.abs(points - mark).argmin()]) for mark in _MARKED},
        "first_positive_derivative_at": float(positive[0]) if len(positive) else None,
        "sign_changes": int(np.sum(signs[1:] != signs[:-1])),
        "median_derivative": {when: float(np.nanmedian(size)) for when, size in sizes.items()},
        "largest_derivative": {when: float(np.nanmax(size)) for when, size in sizes.items()},
        "points": len(rows),
    }


def results() -> dict[str, Json]:
    """What is on file, by preset."""
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def table(rows: dict[str, Json]) -> Table:
    """One line a preset."""
    columns = ("preset", "learned", "meta-its", "seconds", "train", "valid", "test", "test accuracy", "exact")
    shown = Table(*columns, "found", box=None, pad_edge=False)
    for preset, row in rows.items():
        proof = row["certificate"]
        shown.add_row(
            preset,
            str(row["num_hyperparameters"]),
            str(row["meta_iterations"]),
            f"{row['seconds']:.0f}",
            *(arrow(row, part) for part in _LOSSES[1:]),
            arrow(row, "test_accuracy"),
            f"{proof['exact']}, {proof['mismatched_bits']} bits differ",
            json.dumps(row["found"])[:200],
        )
    return shown


def arrow(row: Json, name: str) -> str:
    """Before → after, on the same evaluation seeds; one number where the job learns nothing."""
    before, after = (value_of(row["losses"][when], name) for when in ("initial", "best"))
    if after is None:
        return ""
    return f"{after:.3f}" if row["kind"] != "learn" or before is None else f"{before:.3f} → {after:.3f}"


def value_of(losses: Json | None, name: str) -> float | None:
    """A loss or another measure."""
    return None if losses is None else losses.get(name, losses["measures"].get(name))


@contextlib.contextmanager
def connected() -> Iterator[Client]:
    """A client of the server that RETROGRAD_URL names, or of a stack that lives as long as this."""
    if "RETROGRAD_URL" in os.environ:
        with Client() as client:
            yield client
        return
    with Stack(Home(OUTPUTS / "stack"), port=0) as stack, Client(stack.url, stack.api_key) as client:
        yield client


def main() -> None:
    """Run, and print what is on file then."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", metavar="PRESET", help="all unless given")
    chosen = parser.parse_args().presets or presets.names()
    if unknown := set(chosen) - set(presets.names()):
        parser.error(f"no preset {', '.join(sorted(unknown))}; there are {', '.join(presets.names())}")
    console, failed = Console(), []
    with connected() as client:
        for preset in chosen:
            console.print(f"{preset} …")
            try:
                row = run(client, preset, OUTPUTS / preset)
            except RuntimeError as error:
                console.print(f"[red]{error}")
                failed.append(preset)
                continue
            everything = results() | {preset: row}
            write(FILE, {name: everything[name] for name in sorted(everything)})
            console.print(table({preset: row}))
    console.print(table(results()))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
