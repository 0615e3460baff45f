"""Runs on an MLflow tracking server: each end of a job is one run there, however often it is written.

The server makes up a run's id, so two writers could each make one. Whoever has made one looks again: of all that have
the same tags one stays, whoever made it, and everybody goes on with that: one that is whole, or else the one with the
smallest id.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from worker.tracked_run import Point, TrackedRun

MISSING = (
    "RETROGRAD_MLFLOW_TRACKING_URI is set, but MLflow is not installed here; run: pip install 'retrograd[mlflow]', or "
    "unset it"
)

_METRICS_AT_ONCE, _PARAMS_AT_ONCE = 1000, 100  # what a server takes in one request
_HABITS = {  # of MLflow's client, unless the environment says otherwise: it is tried again later anyway
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

_T = TypeVar("_T")


class TrackingServer:
    """One experiment on a server, or in a store that MLflow opens itself.

    Args:
        uri: as MLflow has it: http(s)://…, or sqlite:///….
        experiment: its name; it is made if there is none.

    Raises:
        SystemExit: MLflow is not installed.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        for name, value in _HABITS.items():
            os.environ.setdefault(name, value)
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise SystemExit(MISSING) from error
        self._client = MlflowClient(tracking_uri=uri)
        self._experiment = experiment

    def write(self, run: TrackedRun, hold: Callable[[], None]) -> str:
        """Have the run there, whole, once; returns its id.

        Args:
            run: what it says.
            hold: called between requests; what it raises ends the writing, which another has begun anew.
        """
        from mlflow.entities import Param

        experiment_id = self._experiment_id()
        found = self._made(experiment_id, run)
        is_new = found is None
        if found is None:
            tags = {**run.identity, **run.tags}
            hold()  # else one that was slow would make another of a run that is whole by now
            start = _milliseconds(run.started_at)
            self._client.create_run(experiment_id, start_time=start, tags=tags, run_name=run.name)
            found = self._made(experiment_id, run)
            assert found is not None  # noqa: S101 - it was made just now
        run_id: str = found.info.run_id
        if found.info.status != "RUNNING":  # its end is written last
            return run_id
        known = found.data.params  # no server changes one, and the job may have been retried elsewhere since
        params = (Param(name, value) for name, value in run.params.items() if name not in known)
        for some in _chunks(params, _PARAMS_AT_ONCE):
            hold()
            self._client.log_batch(run_id, params=some)
        points = run.points() if is_new else self._missing(run_id, run.points())
        for batch in _chunks(points, _METRICS_AT_ONCE):
            hold()
            self._client.log_batch(run_id, metrics=[_metric(point) for point in batch])
        with tempfile.TemporaryDirectory() as folder:
            run.write_files(Path(folder))
            hold()
            self._client.log_artifacts(run_id, folder)
        hold()
        self._client.set_terminated(run_id, run.status, _milliseconds(run.ended_at))
        return run_id

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            try:
                return str(self._client.create_experiment(self._experiment))
            except MlflowException:  # another was quicker
                found = self._client.get_experiment_by_name(self._experiment)
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise RuntimeError(
                f"the experiment {self._experiment!r} is deleted; restore it, or set RETROGRAD_MLFLOW_EXPERIMENT to "
                "another"
            )
        return str(found.experiment_id)

    def _made(self, experiment_id: str, run: TrackedRun) -> Any:
        """The run that there is; None where there is none. Of several one stays."""
        wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in run.identity.items())
        all_of_them = self._client.search_runs([experiment_id], wanted)
        found = sorted(all_of_them, key=lambda one: (one.info.status == "RUNNING", one.info.run_id))
        for other in found[1:]:
            self._client.delete_run(other.info.run_id)
        return found[0] if found else None

    def _missing(self, run_id: str, points: Iterable[Point]) -> Iterator[Point]:
        """Those that an earlier attempt has not written."""
        known: dict[str, set[int]] = {}
        for point in points:
            if point.name not in known:
                history = self._client.get_metric_history(run_id, point.name)
                known[point.name] = {one.step for one in history}
            if point.step not in known[point.name]:
                yield point


def _metric(point: Point) -> Any:
    from mlflow.entities import Metric

    return Metric(point.name, point.value, point.at, point.step)


def _chunks(all_of_them: Iterable[_T], size: int) -> Iterator[list[_T]]:
    remaining = iter(all_of_them)
    while some := list(islice(remaining, size)):
        yield some


def _milliseconds(moment: Any) -> int:
    return int(1000 * moment.timestamp())
