"""What is asked of the server in more than one request, or in one that may have to be sent again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import httpx

from retrograd.client import calls, files, uploads
from retrograd.client.call import Call, Json, Page, Seen, is_id, understood
from retrograd.client.call import event as told
from retrograd.client.errors import ApiError, IncompleteId, stranger, unknown_preset
from retrograd.client.progress import Progress, shown
from retrograd.client.retries import ATTEMPTS, PATIENT, Retries
from retrograd.client.seen import SeenJob
from retrograd.client.steps import Next, Open, Opened, Pause, Send, Steps, Tell, Telling

T = TypeVar("T")
J = TypeVar("J", bound=SeenJob)

_FIRST_POLL_SECONDS, _POLL_SECONDS = 0.2, 1.0  # the first ones follow fast: many jobs are short
_DATA = "data: "


def send(call: Call[T], attempts: int = ATTEMPTS) -> Steps[T]:
    """What the answer to the call says.

    Raises:
        ApiError: it says no, or nothing that can be understood.
    """
    answer = yield from _answer(Send(call), Retries(call, attempts))
    with understood(answer):
        return call.read(answer)


def page(call: Call[Page], make: Callable[[Json], T]) -> Steps[list[T]]:
    """What is made of the rows of one page."""
    return (yield from send(call.then(lambda page: [make(row) for row in page.data])))


def rows(call: Call[Page]) -> Steps[list[Json]]:
    """Of all pages."""
    found: list[Json] = []
    while True:
        data, after = yield from send(call)
        found += data
        if after is None:
            return found
        call = _after(call, after)


def each(call: Call[Page], make: Callable[[Json], T]) -> Telling[T]:
    """Tell what is made of the rows of all pages, page by page."""
    while True:
        made, after = yield from send(call.then(lambda page: ([make(row) for row in page.data], page.next)))
        for one in made:
            yield Tell(one)
        if after is None:
            return
        call = _after(call, after)


def get_job(job_id: str) -> Steps[Seen]:
    """The job of this id.

    Raises:
        IncompleteId: it is none.
    """
    if not is_id(job_id):
        raise IncompleteId(job_id)
    return (yield from send(calls.get_job(job_id)))


def create_job(call: Call[Seen], preset: str | None) -> Steps[Seen]:
    """The job that was created, of a preset if one is named."""
    return (yield from (send(call) if preset is None else _of_preset(call, preset)))


def get_preset(name: str) -> Steps[Json]:
    """The specification."""
    return (yield from _of_preset(calls.get_preset(name), name))


def look(job: J, attempts: int = ATTEMPTS, deadline: float = math.inf) -> Steps[J]:
    """The job as it is now."""
    job.see((yield from send(calls.look_at_job(job.id, job.etag, deadline), attempts)))
    return job


def change(job: J, how: calls.Change) -> Steps[J]:
    """The job after it was asked to change its state."""
    job.see((yield from send(calls.change_job(job.id, how))))
    return job


def wait(job: J, timeout: float | None, progress: Progress) -> Steps[J]:
    """The job once it has ended.

    Raises:
        TimeoutError: it has not, after so many seconds, or the server has not answered.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    pause = _FIRST_POLL_SECONDS
    with shown(job, progress) as show:
        while True:
            try:
                yield from look(job, PATIENT, deadline)
            except TimeoutError as error:
                raise TimeoutError(
                    f"job {job.id} was {job.state}; since then, in {timeout:g} s: {error}"
                ) from error
            show(job)
            if job.ended:
                return job
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError(f"job {job.id} is still {job.state} after {timeout:g} s; it goes on")
            yield Pause(min(pause, left))
            pause = min(1.3 * pause, _POLL_SECONDS)


def cancel_jobs(state: str | None, preset: str | None) -> Steps[list[str]]:
    """Ids of all that were cancelled."""
    ids: list[str] = []
    while True:
        cancelled, more = yield from send(calls.cancel_jobs(state, preset))
        ids += cancelled
        if not more:
            return ids


def events(job_id: str, after: int) -> Telling[Json]:
    """Tell every event once, as it happens, until the job has ended; a stream that is lost goes on where it was."""
    retries = Retries(calls.follow_events(job_id, after), PATIENT)
    fruitless = 0  # streams since the last event
    while True:
        fruitless += 1
        try:
            opened = yield from _answer(Open(calls.follow_events(job_id, after), "lines"), retries)
            if opened.answer.status_code == httpx.codes.NO_CONTENT:  # ended, and all is told
                return
            data = None
            while (line := (yield Next(opened))) is not None:
                retries.forget()  # whatever it says, if only that nothing is new
                if line.startswith(_DATA):
                    data = line.removeprefix(_DATA)
                elif not line and data is not None:  # an event is whole only once a blank line has come
                    with understood(opened.answer):
                        event = told(data)
                    after, data, fruitless = event["number"], None, 0
                    yield Tell(event)
            pause = retries.pause(fruitless) if fruitless else 0.0
        except httpx.TransportError as error:
            pause = retries.lost(error)
        except httpx.DecodingError as error:
            raise stranger(error.request, opened.answer.status_code) from error
        yield Pause(pause)


def save(call: Call[bytes], path: Path | str) -> Steps[Path]:
    """The file that was saved. It appears only once it is complete; what is cut off is fetched anew."""
    path = Path(path)
    retries = Retries(call)
    with files.whole(path) as file:
        while True:
            try:
                opened = yield from _answer(Open(call, "bytes"), retries)
                file.seek(0)
                file.truncate()
                with understood(opened.answer):
                    while (piece := (yield Next(opened))) is not None:
                        file.write(piece)
                return path
            except httpx.TransportError as error:
                pause = retries.lost(error)
            yield Pause(pause)


def download(job_id: str, path: Path | str, iteration: str | int, format: str | None) -> Steps[Path]:
    """The file in which what the job has learned was saved."""
    format = files.format_of(path, format, ("json", "npz"))
    return (yield from save(calls.download(job_id, iteration, format), path))


def download_curves(job_id: str, path: Path | str, format: str | None) -> Steps[Path]:
    """The file in which the table of the job's meta-iterations was saved."""
    format = files.format_of(path, format, ("csv", "parquet", "json"))
    return (yield from save(calls.download_curves(job_id, format), path))


def preset_names() -> Steps[list[str]]:
    """Of all presets."""
    return (
        yield from send(calls.list_presets().then(lambda presets: [str(preset["name"]) for preset in presets]))
    )


def upload_dataset(data: uploads.Data, name: str, columns: Mapping[str, Any] | None) -> Steps[Json]:
    """What the server found in the data."""
    with uploads.files_of(data) as parts:
        return (yield from send(calls.upload_dataset(parts, name, columns)))


def upload_program(program: Path | str | bytes, name: str) -> Steps[Json]:
    """What the server found in the program."""
    with uploads.file_of(program) as file:
        return (yield from send(calls.upload_program(file, name)))


def _of_preset(call: Call[T], name: str) -> Steps[T]:
    """What the answer says. Of a preset that is unknown, the name that may be meant is told."""
    try:
        return (yield from send(call))
    except ApiError as error:
        if error.code not in ("unknown_preset", "invalid_parameter"):
            raise
        from core import presets  # loads the specification: only where it helps

        raise unknown_preset(error, name, presets.names()) from error


def _answer(step: Send | Open, retries: Retries) -> Steps[Any]:
    """What the step leads to, once it is an answer, and a good one."""
    while True:
        try:
            outcome = yield step
            pause = retries.refused(outcome.answer if isinstance(outcome, Opened) else outcome)
        except httpx.TransportError as error:
            pause = retries.lost(error)
        except httpx.DecodingError as error:
            raise stranger(error.request, 0) from error
        if pause is None:
            return outcome
        yield Pause(pause)


def _after(call: Call[Page], after: str | int) -> Call[Page]:
    return replace(call, params={**call.params, "after": after})
