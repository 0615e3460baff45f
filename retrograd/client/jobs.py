"""Jobs, for whoever waits for answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from retrograd.client import calls, exchanges
from retrograd.client.call import Ids, Json, Rows, Seen
from retrograd.client.carriers import Carrier
from retrograd.client.exchanges import send
from retrograd.client.lists import JobList
from retrograd.client.progress import Progress
from retrograd.client.seen import SeenJob

if TYPE_CHECKING:
    from core.spec import JobSpec
    from retrograd.client.curves import Curves
    from retrograd.client.hyperparameters import Hyperparameters


class Job(SeenJob):
    """A job: a mapping of the fields of its document as last seen, and what can be asked of it.

    `refresh`, `wait` and whatever changes its state look anew, and return the job itself.
    """

    def __init__(self, carrier: Carrier, seen: Seen) -> None:
        super().__init__(seen)
        self._carrier = carrier

    def refresh(self) -> Self:
        """Look anew: state, progress, losses, certificate, error."""
        return self._carrier.run(exchanges.look(self))

    def wait(self, timeout: float | None = None, *, progress: Progress = None) -> Self:
        """Wait until the job has ended, whatever its end: see `state` and `job["error"]`.

        Args:
            timeout: raise TimeoutError after so many seconds; the job goes on.
            progress: True draws a bar, False nothing, None a bar where stderr is a terminal or this is a notebook. Or a
                function, which is called with the job after every poll.
        """
        return self._carrier.run(exchanges.wait(self, timeout, progress))

    def cancel(self) -> Self:
        """Ask it to end; what it has learned stays."""
        return self._carrier.run(exchanges.change(self, "cancel"))

    def pause(self) -> Self:
        """Put it by; it keeps its place in training until `resume`."""
        return self._carrier.run(exchanges.change(self, "pause"))

    def resume(self) -> Self:
        """Have it go on after its last meta-iteration, once it is paused."""
        return self._carrier.run(exchanges.change(self, "resume"))

    def retry(self) -> Self:
        """Queue it again, once it has failed or been cancelled."""
        return self._carrier.run(exchanges.change(self, "retry"))

    def delete(self) -> None:
        """Remove it and its results, once it has ended."""
        self._carrier.run(send(calls.delete_job(self.id)))

    def events(self, after: int = 0) -> Iterator[Json]:
        """What happens to it, from the event after number `after` on, as it happens, until the job has ended.

        Every event comes once: a connection that is lost is made again from where it was.
        """
        return self._carrier.iterate(exchanges.events(self.id, after))

    def past_events(self) -> Rows:
        """What has happened to it so far, in order."""
        return self._carrier.run(exchanges.rows(calls.list_events(self.id)))

    def iterations(self, after: int | None = None) -> Rows:
        """Losses, hypergradient norms, certificates and diagnostics of all meta-iterations later than `after`."""
        return self._carrier.run(exchanges.rows(calls.list_iterations(self.id, after)))

    def curves(self) -> Curves:
        """The same as arrays by name: losses, hypergradient norm and seconds over meta-iterations."""
        return self._carrier.run(send(calls.curves(self.id)))

    def hyperparameters(self, iteration: str | int = "best") -> Hyperparameters:
        """What it has learned, as arrays by name.

        Args:
            iteration: best, last, or a number of updates; 0 is the start.
        """
        return self._carrier.run(send(calls.hyperparameters(self.id, iteration)))

    def download(self, path: Path | str, iteration: str | int = "best", format: str | None = None) -> Path:
        """Save the result document (json) or its arrays (npz): as the path ends, unless `format` says it.

        A file that is there is replaced, once the new one is complete.

        Raises:
            ValueError: the path ends in one of them, and `format` is the other.
        """
        return self._carrier.run(exchanges.download(self.id, path, iteration, format))

    def download_curves(self, path: Path | str, format: str | None = None) -> Path:
        """Save a table of its meta-iterations, with the certificates' numbers and diagnostics: csv, parquet or json, as
        the path ends, unless `format` says it.
        """
        return self._carrier.run(exchanges.download_curves(self.id, path, format))

    def trials(self) -> Rows:
        """What a warm start tried before the descent."""
        return self._carrier.run(send(calls.list_trials(self.id)))

    def figures(self) -> Rows:
        """Name and title of every figure that can be drawn of the job as far as it has come."""
        return self._carrier.run(send(calls.list_figures(self.id)))

    def figure(self, name: str, format: str = "png") -> bytes:
        """A figure of its results, as a png or svg file."""
        return self._carrier.run(send(calls.draw_figure(self.id, name, format)))

    def deliveries(self) -> Rows:
        """How far each message to its webhook has come, newest first."""
        return self._carrier.run(send(calls.list_deliveries(self.id)))

    def redeliver(self, delivery_id: str) -> Json:
        """Have a message sent to its webhook again."""
        return self._carrier.run(send(calls.redeliver(self.id, delivery_id)))


class Jobs:
    """Jobs of a project."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier

    def create(
        self,
        spec: JobSpec | Mapping[str, Any] | None = None,
        *,
        preset: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Queue a job, once, even where answers are lost on the way.

        Args:
            spec: the job.
            preset: or the name of one that is ready, to be queued as it stands.
            idempotency_key: of this creation: up to 255 printable characters. The same key and job within 24 hours, by
                whatever process, give the job that there is already. A new one unless given.
        """
        return Job(
            self._carrier,
            self._carrier.run(exchanges.create_job(calls.create_job(spec, preset, idempotency_key), preset)),
        )

    def plan(self, spec: JobSpec | Mapping[str, Any]) -> Json:
        """What a job would take: hyperparameters, hypergradients, and seconds and bytes by engine. Takes a while."""
        return self._carrier.run(send(calls.plan(spec)))

    def get(self, job_id: str) -> Job:
        """The job of this id, which is to be whole."""
        return Job(self._carrier, self._carrier.run(exchanges.get_job(job_id)))

    def list(
        self, limit: int = 20, *, state: str | None = None, search: str | None = None, preset: str | None = None
    ) -> JobList[Job]:
        """The newest jobs, at most 100: those of a state or preset, and those whose name holds `search`, if given.

        Lists have less of each job than there is: `refresh` brings the rest.
        """
        call = calls.list_jobs(limit, state, search, preset)
        return JobList(self._carrier.run(exchanges.page(call, self._listed)))

    def all(
        self, *, state: str | None = None, search: str | None = None, preset: str | None = None
    ) -> Iterator[Job]:
        """All jobs, newest first, or those of a kind as `list` has it; asked for page by page."""
        call = calls.list_jobs(state=state, search=search, preset=preset)
        return self._carrier.iterate(exchanges.each(call, self._listed))

    def cancel_all(self, *, state: str | None = None, preset: str | None = None) -> Ids:
        """Ask all jobs that have not ended to do so, those of one state or preset if given; returns their ids."""
        return self._carrier.run(exchanges.cancel_jobs(state, preset))

    def _listed(self, row: Json) -> Job:
        return Job(self._carrier, Seen.read(row))
