"""A typed client of the HTTP API: submit a job, follow it, download what it learned."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self, cast
from urllib.parse import quote
from uuid import uuid4

import httpx

from core.errors import CoreError
from retrograd.home import Home

if TYPE_CHECKING:
    from core.spec import JobSpec

Json = dict[str, Any]
ENDED = frozenset({"succeeded", "failed", "cancelled"})

_ATTEMPTS = 4
_FIRST_PAUSE_SECONDS = 0.2
_POLL_SECONDS = 0.5
_STREAM_ATTEMPTS = 7  # in a row, over 25 seconds: the server may be starting anew
_PLAN_SECONDS = 120.0  # longer than the server lets a plan take
_SILENCE_SECONDS = 60.0  # in an event stream: some comments would have come
_UPLOAD_SECONDS = 600.0  # of silence, while the server checks what it was sent
_IDX = ("images", "labels")


class ApiError(CoreError):
    """The API said no. `code` and `status` are for programs; `errors` lists the fields of a bad spec."""

    code = "api_error"

    def __init__(self, status: int, code: str, detail: str, errors: list[Json] | None = None) -> None:
        self.status, self.code, self.errors = status, code, errors or []  # type: ignore[misc]
        if self.errors:  # one field a line; the detail is the same in one line
            fields = [f"\n  {'.'.join(map(str, one['loc'])) or 'job'}: {one['msg']}" for one in self.errors]
            detail = "the server refused the request" + "".join(fields)
        super().__init__(f"{detail} ({code}, HTTP {status})")


class ServerUnreachable(CoreError):  # noqa: N818 - named for what happened
    """No server is known, or nothing answers at its address."""

    code = "server_unreachable"


class Client:
    """One server and one key.

    Without arguments: `RETROGRAD_URL` and `RETROGRAD_API_KEY`, else the embedded stack of this folder.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        home: Home | None = None,
        timeout: float = 30.0,
    ) -> None:
        """Connect to nothing yet.

        Args:
            url: of the server, such as http://127.0.0.1:8000.
            api_key: an rg_… key. The key of the embedded stack is never sent to another server.
            home: folder of the embedded stack.
            timeout: seconds to wait for a connection or an answer.
        """
        home = home or Home()
        url = url or os.environ.get("RETROGRAD_URL") or home.url
        if url is None:
            raise ServerUnreachable(
                "no server is known here; start one with `retrograd up` in this folder, or set RETROGRAD_URL"
            )
        api_key = api_key or os.environ.get("RETROGRAD_API_KEY")
        if api_key is None and url == home.url:
            api_key = home.api_key
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=timeout,
            trust_env=not self.url.startswith(("http://127.0.0.1", "http://localhost")),  # no proxy to oneself
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # Jobs

    def create_job(self, spec: JobSpec | Mapping[str, Any], *, idempotency_key: str | None = None) -> Json:
        """Queue a job, once, even where answers are lost on the way.

        Args:
            spec: the job.
            idempotency_key: of this creation: up to 255 printable characters. The same key and job within 24 hours, by
                whatever process, give the job that there is already. A new one unless given.
        """
        return self._create(idempotency_key, json=_document(spec))

    def create_from_preset(self, name: str, *, idempotency_key: str | None = None) -> Json:
        """Queue a preset as it stands; once, as `create_job` does."""
        return self._create(idempotency_key, params={"preset": name})

    def plan(self, spec: JobSpec | Mapping[str, Any]) -> Json:
        """What a job would take: hyperparameters, hypergradients, and seconds and bytes by engine. Takes a while."""
        return self._json(
            "POST", "/v1/jobs", json=_document(spec), params={"dry_run": "true"}, timeout=_PLAN_SECONDS
        )

    def jobs(self, limit: int = 20, *, state: str | None = None, search: str | None = None) -> list[Json]:
        """The newest jobs of this key's project: those of a state, and those whose name holds `search`, if given."""
        asked = {"limit": limit, "state": state, "search": search}
        params = {name: value for name, value in asked.items() if value is not None}
        return list(self._json("GET", "/v1/jobs", params=params)["data"])

    def job(self, job_id: str) -> Json:
        """State, progress, losses, error."""
        return self._json("GET", _job(job_id))

    def iterations(self, job_id: str, after: int | None = None) -> list[Json]:
        """Losses, hypergradient norms, certificates and diagnostics of all meta-iterations later than `after`."""
        rows: list[Json] = []
        while True:
            params = {} if after is None else {"after": after}
            page = self._json("GET", _job(job_id, "iterations"), params=params)
            rows += page["data"]
            if (after := page["next"]) is None:
                return rows

    def events(self, job_id: str, after: int = 0) -> Iterator[Json]:
        """What happens to a job, from the event after number `after` on, as it happens, until the job has ended.

        Every event comes once: a connection that is lost is made again from where it was.
        """
        failures = 0
        while failures < _STREAM_ATTEMPTS:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
            try:
                with self._http.stream(
                    "GET", _job(job_id, "events"), headers=headers, timeout=_SILENCE_SECONDS
                ) as answer:
                    _raise_for_error(answer)
                    if answer.status_code == httpx.codes.NO_CONTENT:  # ended, and all is told
                        return
                    for event in _told(answer):
                        after, failures = int(event["number"]), 0
                        yield event
            except httpx.TransportError as error:
                failures, lost = failures + 1, error
            time.sleep(_FIRST_PAUSE_SECONDS * 2**failures)
        raise self._unreachable(lost) from lost

    def past_events(self, job_id: str) -> Iterator[Json]:
        """What has happened to a job so far, in order."""
        after: int | None = 0
        while after is not None:
            page = self._json("GET", _job(job_id, "events"), params={"after": after})
            yield from page["data"]
            after = page["next"]

    def cancel(self, job_id: str) -> Json:
        """Ask a job to end; what it has learned stays."""
        return self._json("POST", _job(job_id, "cancel"))

    def cancel_all(self, *, state: str | None = None, preset: str | None = None) -> list[str]:
        """Ask all jobs that have not ended to do so, those of one state or preset if given; returns their ids."""
        asked = {"state": state, "preset": preset}
        params = {name: value for name, value in asked.items() if value is not None}
        ids: list[str] = []
        while True:
            answer = self._json("POST", "/v1/jobs/cancel", params=params)
            ids += answer["data"]
            if not answer["more"]:
                return ids

    def pause(self, job_id: str) -> Json:
        """Put a job by; it keeps its place in training until `resume`."""
        return self._json("POST", _job(job_id, "pause"))

    def resume(self, job_id: str) -> Json:
        """Have a paused job go on after its last meta-iteration."""
        return self._json("POST", _job(job_id, "resume"))

    def retry(self, job_id: str) -> Json:
        """Queue an ended job again."""
        return self._json("POST", _job(job_id, "retry"))

    def delete(self, job_id: str) -> None:
        """Remove an ended job and its results."""
        self._request("DELETE", _job(job_id))

    def wait(
        self, job_id: str, on_progress: Callable[[Json], None] | None = None, seconds: float | None = None
    ) -> Json:
        """Poll until the job has ended, and return it, whatever its end.

        Args:
            job_id: the job.
            on_progress: called with the job after every poll.
            seconds: raise TimeoutError after this long; the job goes on.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        known: dict[str, str] = {}  # the version that the server need not send again
        while True:
            answer = self._request("GET", _job(job_id), headers=known)
            if answer.status_code != httpx.codes.NOT_MODIFIED:
                job = self._read(answer)
                known = {"If-None-Match": answer.headers["ETag"]} if "ETag" in answer.headers else {}
            if on_progress:
                on_progress(job)
            if job["state"] in ENDED:
                return job
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"job {job_id} is still {job['state']} after {seconds:g} s")
            time.sleep(_POLL_SECONDS)

    # Data sets

    def upload(
        self,
        data: Path | str | tuple[Path | str, Path | str] | Mapping[str, Any],
        name: str,
        columns: Mapping[str, Any] | None = None,
    ) -> Json:
        """Send data to learn from; a job names them by `{"id": …}`.

        Args:
            data: an npz file; two IDX files, images and labels; arrays by name, `images` or `inputs` and `labels` or
                `targets`; or a CSV or Parquet file.
            name: for lists.
            columns: of a CSV or Parquet file, such as `{"target": "price", "categorical": ["town"]}`.
        """
        fields = {"name": name} | ({} if columns is None else {"columns": json.dumps(columns)})
        with contextlib.ExitStack() as stack:
            if isinstance(data, Mapping):
                files = {"file": stack.enter_context(_as_npz(data))}
            else:
                paths = {"file": data} if isinstance(data, Path | str) else dict(zip(_IDX, data, strict=True))
                files = {part: stack.enter_context(Path(path).open("rb")) for part, path in paths.items()}
            return self._json("POST", "/v1/datasets", data=fields, files=files, timeout=_UPLOAD_SECONDS)

    def datasets(self, limit: int = 20) -> list[Json]:
        """The newest data sets of this key's project."""
        return list(self._json("GET", "/v1/datasets", params={"limit": limit})["data"])

    def dataset(self, dataset_id: str) -> Json:
        """Shapes, types, classes or targets, bytes and digest; of tables their columns and first rows."""
        return self._json("GET", f"/v1/datasets/{quote(dataset_id, safe='')}")

    def delete_dataset(self, dataset_id: str) -> None:
        """Delete a data set that no job still learns from."""
        self._request("DELETE", f"/v1/datasets/{quote(dataset_id, safe='')}")

    # Programs

    def upload_program(self, program: Path | str | bytes, name: str) -> Json:
        """Send a problem that `export_problem` has made, to be checked and kept; a job names it by its `id`.

        Args:
            program: its file, or its bytes.
            name: for lists.
        """
        with io.BytesIO(program) if isinstance(program, bytes) else Path(program).open("rb") as file:
            files = {"file": file}
            return self._json("POST", "/v1/programs", data={"name": name}, files=files, timeout=_UPLOAD_SECONDS)

    def programs(self, limit: int = 20) -> list[Json]:
        """The newest programs of this key's project."""
        return list(self._json("GET", "/v1/programs", params={"limit": limit})["data"])

    def program(self, program_id: str) -> Json:
        """What its functions take and return, and what was found when it was checked."""
        return self._json("GET", f"/v1/programs/{quote(program_id, safe='')}")

    def delete_program(self, program_id: str) -> None:
        """Delete a program that no job still runs."""
        self._request("DELETE", f"/v1/programs/{quote(program_id, safe='')}")

    # Results and presets

    def hyperparameters(self, job_id: str, iteration: str | int = "best") -> Json:
        """The result document: learned hyperparameters, losses, certificate, provenance."""
        params = {"iteration": iteration, "format": "json"}
        return self._json("GET", _job(job_id, "hyperparameters"), params=params)

    def download(self, job_id: str, path: Path | str, iteration: str | int = "best", format: str = "json") -> Path:
        """Save the result document (json) or its arrays (npz); `path` appears only once it is complete."""
        path = Path(path)
        unfinished = path.with_name(f".{path.name}.unfinished")
        params: Json = {"iteration": iteration, "format": format}
        try:
            with self._http.stream("GET", _job(job_id, "hyperparameters"), params=params) as answer:
                _raise_for_error(answer)
                with unfinished.open("wb") as file:
                    for chunk in answer.iter_bytes():
                        file.write(chunk)
            unfinished.replace(path)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        finally:
            unfinished.unlink(missing_ok=True)
        return path

    def trials(self, job_id: str) -> list[Json]:
        """What a warm start tried before the descent."""
        return list(self._json("GET", _job(job_id, "trials"))["data"])

    def figures(self, job_id: str) -> list[Json]:
        """Name and title of every figure that can be drawn of the job as far as it has come."""
        return list(self._json("GET", _job(job_id, "figures"))["data"])

    def figure(self, job_id: str, name: str, format: str = "png") -> bytes:
        """A figure of the job's results, as a png or svg file."""
        return self._request("GET", _job(job_id, "figures", f"{quote(name, safe='')}.{format}")).content

    def presets(self) -> list[str]:
        """Names of jobs that are ready to be queued."""
        return [str(preset["name"]) for preset in self._json("GET", "/v1/presets")["data"]]

    def preset(self, name: str) -> Json:
        """A preset's specification, to be changed and given to `create_job`."""
        return self._json("GET", f"/v1/presets/{quote(name, safe='')}")

    def problem_kinds(self) -> list[Json]:
        """What `problem` in a job may be, with JSON Schemas: kinds of the service, and of installed packages."""
        return list(self._json("GET", "/v1/problem-kinds")["data"])

    # Project and keys

    def project(self) -> Json:
        """The project that this key speaks for: its name, its quotas, and what is used of each."""
        return self._json("GET", "/v1/project")

    def api_keys(self) -> list[Json]:
        """API keys of the project, but for themselves. Needs the scope admin, as all about keys."""
        return list(self._json("GET", "/v1/keys")["data"])

    def create_api_key(self, name: str, scopes: Sequence[str]) -> Json:
        """Make a key; its `key` is shown this once."""
        return self._json("POST", "/v1/keys", json={"name": name, "scopes": list(scopes)})

    def revoke_api_key(self, key_id: str) -> None:
        """Have a key refused from now on."""
        self._request("DELETE", f"/v1/keys/{quote(key_id, safe='')}")

    # Transport

    def _create(self, idempotency_key: str | None, **arguments: Any) -> Json:
        headers = {"Idempotency-Key": idempotency_key or str(uuid4())}
        return self._json("POST", "/v1/jobs", headers=headers, **arguments)

    def _json(self, method: str, path: str, **arguments: Any) -> Json:
        return self._read(self._request(method, path, **arguments))

    def _read(self, answer: httpx.Response) -> Json:
        document = answer.json()
        if not isinstance(document, dict):
            raise ApiError(200, "not_retrograd", f"{self.url} does not answer like a Retrograd server")
        return document

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Only GETs and what has an idempotency key are sent again: a lost answer to others may have been a success."""
        repeatable = method == "GET" or "Idempotency-Key" in arguments.get("headers", {})
        pause = _FIRST_PAUSE_SECONDS
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                answer = self._http.request(method, path, **arguments)
            except httpx.TransportError as error:
                if not repeatable or attempt == _ATTEMPTS:
                    raise self._unreachable(error) from error
                time.sleep(pause)
                pause *= 2
            else:
                _raise_for_error(answer)
                return answer
        raise AssertionError  # the loop returns or raises

    def _unreachable(self, error: httpx.TransportError) -> ServerUnreachable:
        return ServerUnreachable(
            f"{self.url} does not answer ({error or type(error).__name__}); is the server running? "
            "`retrograd up` starts one here, RETROGRAD_URL names another"
        )


@contextlib.contextmanager
def _as_npz(arrays: Mapping[str, Any]) -> Iterator[BinaryIO]:
    import numpy as np  # only where arrays are at hand

    with tempfile.TemporaryFile() as file:
        np.savez_compressed(file, **arrays)
        file.seek(0)
        yield cast(BinaryIO, file)


def _job(job_id: str, *more: str) -> str:
    return "/".join(("/v1/jobs", quote(job_id, safe=""), *more))


def _document(spec: JobSpec | Mapping[str, Any]) -> Mapping[str, Any]:
    return spec if isinstance(spec, Mapping) else spec.model_dump(mode="json", exclude_unset=True)


def _told(answer: httpx.Response) -> Iterator[Json]:
    """Events of a stream, each of which stands whole in a line of data."""
    for line in answer.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def _raise_for_error(answer: httpx.Response) -> None:
    if answer.is_success or answer.status_code == httpx.codes.NOT_MODIFIED:
        return
    answer.read()
    try:
        problem = answer.json()
        detail = str(problem.get("detail") or problem["title"])
        raise ApiError(answer.status_code, str(problem["code"]), detail, problem.get("errors"))
    except (ValueError, KeyError, AttributeError):
        detail = f"{answer.request.url} answered {answer.reason_phrase or 'without a reason'}"
        raise ApiError(answer.status_code, "unexpected_answer", detail) from None
