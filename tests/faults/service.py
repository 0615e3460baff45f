"""A service made of real processes, each of which can be killed, frozen and started again at the same address."""

import contextlib
import json
import signal
import time
import uuid
from collections import defaultdict

import httpx
import psutil

from retrograd.local.servers import free_port
from tests.builders import eventually
from tests.conftest import running
from tests.faults import history

ENDED = history.ENDS
_MARK = "RETROGRAD_TEST_SERVICE"  # in the environment of all that it starts: what a killed parent leaves is found by it
_WAIT_SECONDS = 240.0  # a fresh child imports JAX and compiles, on a machine that tests share
_MODULES = {"api": "api", "janitor": "worker.janitor", "worker": "worker"}


class Service:
    """Processes by name: "api", "janitor", "worker", "worker-2", … What comes before the dash is the role."""

    def __init__(self, settings, folder):
        self.settings, self._folder = settings, folder
        self._mark = uuid.uuid4().hex
        self._urls = {}
        self._environ = {
            _MARK: self._mark,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",  # a child that replaces a killed one is warm sooner
            "RETROGRAD_BOOTSTRAP_API_KEY": settings.bootstrap_api_key.get_secret_value(),
        }
        self._running = {}  # (what ends it, process) by name

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in list(self._running):
            self.thaw(name)
            self.stop(name)
        for process in self.leftovers():
            process.kill()

    def start(self, name, module=None, *arguments, **environ):
        """Start a process; one of the same name must have ended."""
        role = name.partition("-")[0]
        if role == "api":
            arguments = (*arguments, "--port", self.url_of(name).rpartition(":")[2])
        ends = contextlib.ExitStack()
        process = ends.enter_context(
            running(
                module or _MODULES[role], self.settings, self.log(name), *arguments, **self._environ, **environ
            )
        )
        self._running[name] = ends, process
        if role == "api":
            eventually(lambda: process.poll() is not None or self._answers(name), _WAIT_SECONDS)
        return process

    def stop(self, name):
        """Ask it to end, and wait until it has."""
        ends, _ = self._running.pop(name)
        ends.close()

    def kill(self, name):
        """kill -9, of the process alone: what it has started lives on."""
        ends, process = self._running.pop(name)
        process.kill()
        process.wait()
        ends.close()

    def process(self, name):
        return self._running[name][1]

    def names(self):
        return list(self._running)

    @property
    def url(self):
        return self.url_of("api")

    def url_of(self, api):
        """Where an API answers, however often it is started."""
        return self._urls.setdefault(api, f"http://127.0.0.1:{free_port()}")

    def log(self, name):
        return self._folder / f"{name}.log"

    def child(self, worker="worker", seconds=_WAIT_SECONDS):
        """The process in which a worker runs its jobs."""
        return eventually(lambda: next(iter(self.children(worker)), None), seconds)

    def children(self, worker):
        """The same, as far as there is one now."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess, KeyError):
            for process in psutil.Process(self.process(worker).pid).children():
                with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    if any("spawn_main" in word for word in process.cmdline()):
                        found.append(process)
        return found

    def freeze(self, worker):
        """SIGSTOP the worker and its child."""
        for process in (psutil.Process(self.process(worker).pid), *self.children(worker)):
            process.send_signal(signal.SIGSTOP)

    def thaw(self, worker):
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.process(worker).pid)
            for process in (parent, *parent.children(recursive=True)):
                process.send_signal(signal.SIGCONT)

    def leftovers(self):
        """All processes that this service has started and that still run, whoever their parent is now."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _answers(self, name):
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url_of(name)}/healthz", timeout=5, trust_env=False).is_success
        return False


class Caller:
    """A client that tries again, as clients should: where nothing answers, the answer is lost, or the answer is 503.

    Attributes:
        accepted: ids of jobs that it was promised, in order.
        seen: states that it saw of each, in order.
        refused: calls that it had to make again.
    """

    def __init__(self, url, key, seconds=60.0):
        self._http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30, trust_env=False
        )
        self._seconds = seconds
        self.accepted, self.seen = [], defaultdict(list)
        self.refused = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._http.close()

    def call(self, method, path, **arguments):
        deadline = time.monotonic() + self._seconds
        while True:
            try:
                answer = self._http.request(method, path, **arguments)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code != 503:
                return answer
            self.refused += 1
            assert time.monotonic() < deadline, f"{method} {path}: nothing answers"
            time.sleep(0.05)  # between tries, as a client would

    def submit(self, document, key=None):
        """Have a job accepted; returns its id. `key` makes the call safe to repeat."""
        answer = self.call("POST", "/v1/jobs", json=document, headers={"Idempotency-Key": key or uuid.uuid4().hex})
        assert answer.status_code == 202, answer.text
        self.accepted.append(uuid.UUID(answer.json()["id"]))
        self.seen[self.accepted[-1]].append(answer.json()["state"])
        return self.accepted[-1]

    def look(self, job_id):
        answer = self.call("GET", f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        job = answer.json()
        self.seen[job_id].append(job["state"])
        return job

    def act(self, job_id, action):
        """cancel, pause, resume or retry; returns the answer, 202 or 409."""
        answer = self.call("POST", f"/v1/jobs/{job_id}/{action}")
        assert answer.status_code in (202, 409), answer.text
        if answer.status_code == 202:
            self.seen[job_id].append(answer.json()["state"])
        return answer

    def ended(self, job_id, seconds=_WAIT_SECONDS):
        def done():
            job = self.look(job_id)
            return job if job["state"] in ENDED else None

        return eventually(done, seconds)

    def past(self, job_id, iterations, seconds=_WAIT_SECONDS):
        """Wait until so many meta-iterations are done; returns how many are."""

        def far_enough():
            job = self.look(job_id)
            assert job["state"] not in ENDED, f"{job['state']} before: {job['error']}"
            return job["progress"]["meta_iteration"] if job["progress"]["meta_iteration"] >= iterations else None

        return eventually(far_enough, seconds)

    def result(self, job_id, **query):
        """The learned hyperparameters, as bytes."""
        answer = self.call("GET", f"/v1/jobs/{job_id}/hyperparameters", params=query)
        assert answer.status_code == 200, answer.text
        return answer.content


def comparable(content, job_id):
    """A result's bytes without the job's own id, which is all that may differ between two runs of a specification."""
    assert json.loads(content)["job_id"] == str(job_id)
    return content.replace(str(job_id).encode(), b"JOB")
