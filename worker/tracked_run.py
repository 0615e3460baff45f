"""What a run on a tracking server says of a job: parameters, tags, metrics and files, within the server's limits."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from core.figures.data import JobData
from core.results import curves as curve_files
from core.results import document, drawn
from core.results.document import Result
from core.store import curves, events, iterations
from core.store.curves import Column
from core.store.errors import NothingLearned, Pruned
from core.store.models import ENDED, Event, Job, Project
from core.store.tracking import Due

MOST_PARAMS = 500
LONGEST_NAME = 250
LONGEST_VALUE = 500  # newer servers take more
JSON_VALUES = 1_000_000  # of more the document would be tens of megabytes; the arrays have them all

_STATUS: dict[str, Literal["FINISHED", "FAILED", "KILLED"]] = {
    "succeeded": "FINISHED",
    "failed": "FAILED",
    "cancelled": "KILLED",
}
_NO_METRICS = ("iteration", "attempt")
_NO_NAME = re.compile(r"[^A-Za-z0-9_\-. ]")

log = logging.getLogger(__name__)


class Point(NamedTuple):
    """One value of a metric."""

    name: str
    value: float  # finite
    at: int  # milliseconds since 1970
    step: int  # the meta-iteration


class TrackedRun(NamedTuple):
    """An end of a job.

    Attributes:
        tags: those of `identity` are no other run's.
        curves: of the meta-iterations done by then, and when each was kept, seconds since 1970.
        job: as it is, if this is still its latest end; else there are neither totals nor files.
    """

    identity: dict[str, str]
    name: str
    status: Literal["FINISHED", "FAILED", "KILLED"]
    started_at: datetime
    ended_at: datetime
    params: dict[str, str]
    tags: dict[str, str]
    curves: Sequence[Column]
    kept_at: np.ndarray
    job: Job | None
    result: Result | None
    figures: JobData | None

    def points(self) -> Iterator[Point]:
        """Every number of every meta-iteration, then those of the whole job."""
        moments = (1000 * self.kept_at).astype(np.int64)
        steps = self.curves[0].values
        for column in self.curves:
            if column.kind == "string" or column.name in _NO_METRICS:
                continue
            values = column.values.astype(np.float64)
            for place in np.flatnonzero(column.known & np.isfinite(values)):
                yield Point(column.name, float(values[place]), int(moments[place]), int(steps[place]))
        end = int(1000 * self.ended_at.timestamp())
        for name, value in _totals(self.job):
            yield Point(name, value, end, 0)

    def write_files(self, folder: Path) -> None:
        """All files, into an empty folder. A figure that cannot be drawn is left out."""
        if self.job is None:
            return
        (folder / "spec.json").write_text(json.dumps(self.job.spec, indent=1, ensure_ascii=False) + "\n", "utf-8")
        _write(folder / "curves.csv", curve_files.as_csv(self.curves))
        if self.result is not None:
            _write(folder / "arrays.npz", document.as_npz(self.result))
            arrays = (*self.result.values.values(), *self.result.measured.values())
            if sum(array.size for array in arrays) <= JSON_VALUES:
                _write(folder / "result.json", document.as_json(self.result))
        if self.figures is not None:
            (folder / "figures").mkdir()
            _draw(self.figures, folder / "figures")


def read(session: Session, due: Due) -> TrackedRun | None:
    """What is to be written of an end; None where the job is no more."""
    job = session.get(Job, due.job_id)
    if job is None:
        return None
    end = session.get_one(Event, (due.job_id, due.event))
    project = session.scalars(select(Project.name).where(Project.id == job.project_id)).one()
    columns, kept_at = curves.read(session, job), iterations.kept_at(session, job.id)
    done = int(np.searchsorted(kept_at, end.created_at.timestamp(), "right"))  # before it was retried, if it was
    columns = [column._replace(values=column.values[:done], known=column.known[:done]) for column in columns]
    is_latest = job.state in ENDED and due.event == events.latest_end(session, job.id)
    return TrackedRun(
        identity={"retrograd.job_id": str(job.id), "retrograd.end": str(due.event)},
        name=_cut(f"{job.name or job.preset or job.spec['problem']['kind']} {str(job.id)[:8]}", LONGEST_NAME),
        status=_STATUS[end.kind],
        started_at=job.started_at or job.created_at,
        ended_at=end.created_at,
        params=_params(job, is_latest),
        tags=_tags(job, end, project, is_latest),
        curves=columns,
        kept_at=kept_at[:done],
        job=job if is_latest else None,
        result=_result(session, job) if is_latest else None,
        figures=drawn.read(session, job) if is_latest else None,
    )


def _params(job: Job, is_latest: bool) -> dict[str, str]:
    """The specification, flat, and what it came to. Parts that are left out of it are left out.

    Only the latest end says on what it ran: that of an earlier one is no longer known.
    """
    about = {"preset": job.preset, "num_hyperparameters": job.num_hyperparameters}
    if is_latest:
        versions = (job.provenance or {}).get("versions", {})
        about |= {"device": job.device, **{f"versions.{name}": version for name, version in versions.items()}}
    found = about | dict(_flat("", job.spec))
    shown = [(_named(name), _text(value)) for name, value in found.items() if value is not None]
    return dict(shown[:MOST_PARAMS])


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else name, part)
    else:
        yield prefix, value


def _tags(job: Job, end: Event, project: str, is_latest: bool) -> dict[str, str]:
    found = {
        "mlflow.source.name": "retrograd",
        "retrograd.state": end.kind,
        "retrograd.project": _cut(project, LONGEST_VALUE),
        "retrograd.spec_sha256": job.spec_sha256,
    }
    if job.preset is not None:
        found["retrograd.preset"] = job.preset
    if is_latest and job.certificate is not None:
        found["retrograd.certificate_exact"] = str(job.certificate["exact"]).lower()
    if "code" in end.data:
        found["retrograd.error"] = _cut(f"{end.data['code']}: {end.data.get('message', '')}", LONGEST_VALUE)
    return found


def _totals(job: Job | None) -> Iterator[tuple[str, float]]:
    """Finite numbers of a whole job; in MLflow's pages a slash makes a group."""
    if job is None:
        return
    for which, found in job.losses.items():
        parts = dict(found or {})
        named = {f"{which}/{part}_loss": value for part, value in parts.items() if part != "measures"}
        named |= {f"{which}/{_named(name)}": value for name, value in parts.get("measures", {}).items()}
        yield from _finite(named)
    if job.best_iteration is not None:
        yield "best/iteration", float(job.best_iteration)
    yield from _finite({f"certificate/{name}": value for name, value in (job.certificate or {}).items()})


def _finite(named: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in named.items():
        if isinstance(value, bool | int | float) and math.isfinite(value):
            yield name[:LONGEST_NAME], float(value)


def _result(session: Session, job: Job) -> Result | None:
    try:
        return document.read(session, job, "best")
    except (NothingLearned, Pruned):
        return None


def _draw(data: JobData, folder: Path) -> None:
    from core import figures

    for name in figures.names(data):
        try:
            (folder / f"{name}.png").write_bytes(figures.draw(data, name, "png"))
        except Exception:  # whatever Matplotlib makes of odd numbers: no reason to keep all else back
            log.exception("the figure %s could not be drawn", name)


def _write(path: Path, pieces: Iterator[bytes]) -> None:
    with path.open("wb") as file:
        file.writelines(pieces)


def _named(name: str) -> str:
    """In a server's letters. Names are paths there: dots alone would lead elsewhere, and nothing nowhere."""
    found = _NO_NAME.sub("_", name)[:LONGEST_NAME]
    return found if found.strip(".") else "_" * max(1, len(found))


def _text(value: Any) -> str:
    return _cut(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), LONGEST_VALUE)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
