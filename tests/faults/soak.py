"""Many short jobs on the embedded servers while everything dies at random: `python -m tests.faults.soak --minutes 20`.

Prints a summary as JSON and writes it to benchmarks/results/soak.json; exits with 1 if anything was lost, stuck or run
twice, or if memory grew.
"""

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import psutil
import redis

from core.config import Settings
from core.store import keys, migrate
from core.store.session import close_store, open_store
from retrograd.local import servers
from tests.builders import document
from tests.faults import history
from tests.faults.service import Caller, Service

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "soak.json"
AT_ONCE = 8  # jobs that have not ended
CANCELLED, PAUSED, RETRIED = 0.1, 0.15, 0.3  # shares of jobs
SAMPLE_SECONDS = 5.0
FREEZE_SECONDS = 9.0  # longer than a lease
DRAIN_SECONDS = 240.0
WARM_UP_SECONDS = 600.0
WARM_SHARE = 0.25  # of the time, after which memory must have come to rest
MAX_GROWTH = {True: 0.05, False: 0.25}  # of memory; without and with a child, whose size is that of its last jobs
STEADY = "api-steady"  # is never killed: what it leaks would show
MEASURED = (STEADY, "api", "janitor", "worker", "worker and child", "worker-2 and child")
SETTINGS = {
    "lease_seconds": 6.0,
    "heartbeat_seconds": 0.5,
    "janitor_seconds": 0.3,
    "republish_seconds": 2.0,
}

TOY = {
    "name": "toy",
    "problem": {"kind": "toy"},
    "training": {"num_steps": 20, "seed": 0},
    "hyperparameters": {
        "step_size": {"learn": True, "per": ["step"], "initial": 0.01},
        "momentum": {"initial": 0.9},
    },
    "meta": {"num_iterations": 3, "evaluation_seeds": 1},
}
KINDS = {
    "small": document(),
    "longer": document({"meta.num_iterations": 40}),
    "long steps": document({"training.num_steps": 500, "meta.num_iterations": 12, "meta.evaluation_seeds": 1}),
    "toy": TOY,
    "mlp": document({"problem.model": {"kind": "mlp", "hidden": [16]}, "meta.num_iterations": 3}),
    "scan": document({"kind": "scan", "scan": {"hyperparameter": "momentum", "values": [0.1, 0.5, 0.9]}}),
    "hypergradient": document({"kind": "hypergradient", "seeds": {"count": 6}}),
    "searched": document({"meta.warm_start": {"trials": 4, "search": {"step_size": {"low": 0.01, "high": 1.0}}}}),
    "diverging": document(
        {
            "hyperparameters.step_size": {"learn": True, "per": ["step"], "initial": 1e6, "transform": "identity"},
            "hyperparameters.momentum": {"initial": 0.9},
            "training.num_steps": 50,
        }
    ),
}


class World:
    """The service under supervision: what dies is started again; every few seconds something is made to die."""

    def __init__(self, service, postgres, valkey, draw):
        self.service, self._postgres, self._valkey, self._draw = service, postgres, valkey, draw
        self._names = ["api", STEADY, "janitor", "janitor-2", "worker", "worker-2"]
        self.injected, self.restarted = Counter(), Counter()
        self.memory = []  # (seconds since then, {what: bytes})
        self._frozen = None  # (worker, when to thaw it)
        self._began = None  # when the first fault was
        self._faults = {
            "kill -9 of a worker's child": (3, self._kill_child),
            "kill -9 of a worker": (1, lambda: self.service.kill(self._worker())),
            "SIGTERM to a worker": (1, lambda: self.service.process(self._worker()).terminate()),
            "worker frozen past its lease": (1, self._freeze),
            "kill -9 of an API": (3, lambda: self.service.kill("api")),
            "kill -9 of a janitor": (3, lambda: self.service.kill(draw.choice(["janitor", "janitor-2"]))),
            "broker restarted": (1, self._restart_broker),
            "broker wiped": (1, self._wipe_broker),
            "broker frozen for a moment": (1, self._freeze_broker),
            "Postgres restarted": (1, self._restart_postgres),
            "kill -9 of Postgres": (1, self._kill_postgres),
        }  # with how often, beside the others: a child that is killed takes seconds to come back

    def start(self):
        for name in self._names:
            self.service.start(name)

    def run(self, until, between):
        """Do damage, `between` (least, most) seconds apart, and repair it, until the clock says `until`."""
        self._began = due = sample_due = time.monotonic()
        while (now := time.monotonic()) < until:
            self.supervise()
            if now > due:
                self._inject()
                due = now + self._draw.uniform(*between)
            if now > sample_due:
                self._sample()
                sample_due = now + SAMPLE_SECONDS
            time.sleep(0.1)  # as a process manager polls
        self._thaw()

    def supervise(self):
        """Start what has ended."""
        if self._frozen and time.monotonic() > self._frozen[1]:
            self._thaw()
        for name in self._names:
            if name not in self.service.names() or self.service.process(name).poll() is not None:
                if name in self.service.names():
                    self.service.stop(name)
                self.service.start(name)
                self.restarted[name] += 1

    def _inject(self):
        (name,) = self._draw.choices(list(self._faults), [weight for weight, _ in self._faults.values()])
        self._faults[name][1]()
        self.injected[name] += 1

    def _worker(self):
        self._thaw()  # one that is frozen would not notice
        return self._draw.choice(["worker", "worker-2"])

    def _kill_child(self):
        for child in self.service.children(self._worker()):  # none, where its worker has just been told to stop
            child.kill()

    def _freeze(self):
        worker = self._worker()
        self.service.freeze(worker)
        self._frozen = worker, time.monotonic() + FREEZE_SECONDS

    def _thaw(self):
        if self._frozen:
            self.service.thaw(self._frozen[0])
            self._frozen = None

    def _restart_broker(self):
        self._valkey.stop()
        self._valkey.start()

    def _wipe_broker(self):
        with redis.Redis.from_url(self._valkey.url) as broker:
            broker.flushall()

    def _freeze_broker(self):
        os.kill(self._valkey.pid, signal.SIGSTOP)
        try:
            time.sleep(self._draw.uniform(0.5, 3))  # the fault itself
        finally:
            os.kill(self._valkey.pid, signal.SIGCONT)

    def _restart_postgres(self):
        self._postgres.stop()
        self._postgres.start()

    def _kill_postgres(self):
        os.kill(self._postgres.pid, signal.SIGKILL)
        self._postgres.start()

    def _sample(self):
        taken = Counter()
        for name in self.service.names():
            with suppress(psutil.Error):
                process = psutil.Process(self.service.process(name).pid)
                taken[name] = process.memory_info().rss
                children = sum(child.memory_info().rss for child in process.children(recursive=True))
                taken[f"{name} and child"] = taken[name] + children
        self.memory.append((time.monotonic() - self._began, dict(taken)))


class Clients:
    """Owners of jobs: they submit, look, and change their minds."""

    def __init__(self, urls, key, draw):
        self._callers = [Caller(url, key, seconds=120.0) for url in urls]
        self.seen = self._callers[0].seen
        for caller in self._callers:  # their calls are made in turn, so what they see is one history
            caller.seen = self.seen
        self._draw = draw
        self.kinds, self.acts = Counter(), Counter()
        self._open = {}  # ids of jobs that have not ended, with what their owners will want: (when, what)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, name="clients")
        self.error = None

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    @property
    def caller(self):
        """Any of them."""
        return self._draw.choice(self._callers)

    @property
    def accepted(self):
        return [job_id for caller in self._callers for job_id in caller.accepted]

    def _live(self):
        try:
            while not self._over.is_set():
                self._turn()
        except BaseException as error:
            self.error = error
            raise

    def _turn(self):
        while len(self._open) < AT_ONCE and not self._over.is_set():
            kind = self._draw.choice(list(KINDS))
            job_id = self.caller.submit(KINDS[kind], key=uuid.uuid4().hex)
            self.kinds[kind] += 1
            self._open[job_id] = self._change_of_mind()
        for job_id, plan in sorted(self._open.items()):
            state = self.caller.look(job_id)["state"]
            if state in history.ENDS:
                if state != "succeeded" and self._draw.random() < RETRIED:
                    self._act(job_id, "retry")
                else:
                    del self._open[job_id]
            elif plan and time.monotonic() > plan[0][0]:
                self._act(job_id, plan.pop(0)[1])
        self._over.wait(0.2)

    def _change_of_mind(self):
        """What a job's owner will want of it, and when: most of them nothing."""
        now, drawn = time.monotonic(), self._draw.random()
        when = [now + self._draw.uniform(0, 6), now + self._draw.uniform(6, 12)]
        if drawn < CANCELLED:
            return [(when[0], "cancel")]
        return list(zip(when, ("pause", "resume"), strict=True)) if drawn < CANCELLED + PAUSED else []

    def _act(self, job_id, action):
        self.acts[f"{action} {self.caller.act(job_id, action).status_code}"] += 1

    def warm_up(self, world):
        """One job of each kind, so that everything is compiled once before anything dies."""
        for kind, spec in KINDS.items():
            self._open[self.caller.submit(spec, key=kind)] = []
            self.kinds[kind] += 1
        return self.drain(world, WARM_UP_SECONDS)

    def drain(self, world, seconds):
        """Let everything end; returns ids of jobs that do not."""
        deadline = time.monotonic() + seconds
        while self._open and time.monotonic() < deadline:
            world.supervise()
            for job_id in list(self._open):
                state = self.caller.look(job_id)["state"]
                if state == "paused":
                    self._act(job_id, "resume")
                elif state in history.ENDS:
                    del self._open[job_id]
            time.sleep(0.2)  # polls
        return sorted(map(str, self._open))


def growth(samples, name):
    """How the memory of a process, and of those that took its place, went after all was warm.

    A process that has just been started again holds little, so growth is taken from what it held at most in the first
    and in the second half of the time; the slope, in MB an hour, is that of a line through all samples.
    """
    found = [(seconds, taken[name] / 1e6) for seconds, taken in samples if name in taken]
    warm = [(seconds, size) for seconds, size in found if seconds >= WARM_SHARE * found[-1][0]]
    if len(warm) < 4:
        return None
    times, sizes = np.array(warm).T
    first, second = (max(half) for half in np.array_split(sizes, 2))
    return {
        "first_mb": round(sizes[0], 1),
        "median_mb": round(statistics.median(sizes), 1),
        "last_mb": round(sizes[-1], 1),
        "most_mb": [round(first, 1), round(second, 1)],  # in either half
        "slope_mb_per_hour": round(3600 * float(np.polyfit(times, sizes, 1)[0]), 2),
        "growth": round(second / first - 1, 4),
    }


def summary(world, clients, found, stuck, broken, seconds):
    memory = {name: growth(world.memory, name) for name in MEASURED}
    ends = history.ends(found)
    twice = [
        one for one in broken if any(f": {rule}: " in one for rule in ("word", "epochs", "iterations", "result"))
    ]
    return {
        "minutes": round(seconds / 60, 2),
        "jobs": {"accepted": len(clients.accepted), "in_database": len(found), "by_kind": dict(clients.kinds)},
        "ends": dict(ends),
        "owners": dict(clients.acts),
        "attempts": sum(one.attempt for one in found),
        "events": sum(len(one.events) for one in found),
        "meta_iterations": sum(len(one.iterations) for one in found),
        "faults": {"total": sum(world.injected.values()), **dict(world.injected)},
        "restarted": dict(world.restarted),
        "lost": sum(": lost: " in one for one in broken),
        "stuck": len(stuck),
        "run_twice": len(twice),
        "violations": broken[:20],
        "memory": memory,
        "memory_flat": all(
            one is None or one["growth"] < MAX_GROWTH["child" not in name] for name, one in memory.items()
        ),
    }


def soak(minutes, seed, least_seconds, most_seconds):
    draw = random.Random(seed)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="retrograd-soak-")))
        postgres = stack.enter_context(servers.postgres(folder / "postgres"))
        valkey = stack.enter_context(servers.valkey(folder / "valkey"))
        migrate.upgrade(postgres.url())
        settings = Settings(
            database_url=postgres.url(), broker_url=valkey.url, bootstrap_api_key=keys.new_key(), **SETTINGS
        )
        sessions = open_store(settings.database_url)
        stack.callback(close_store, sessions)
        (folder / "logs").mkdir()
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(
            folder / "jax"
        )  # a child that replaces a killed one is warm sooner
        service = stack.enter_context(Service(settings, folder / "logs"))
        world = World(service, postgres, valkey, random.Random(draw.random()))
        world.start()
        clients = Clients(
            [service.url_of("api"), service.url_of(STEADY)],
            settings.bootstrap_api_key.get_secret_value(),
            random.Random(draw.random()),
        )
        assert not clients.warm_up(world)
        began = time.monotonic()
        with clients:
            world.run(began + 60 * minutes, (least_seconds, most_seconds))
        stuck = clients.drain(world, DRAIN_SECONDS)
        found, broken = settled(sessions, clients)
        result = summary(world, clients, found, stuck, broken, time.monotonic() - began)
        if broken or stuck or clients.error:
            kept = Path(tempfile.mkdtemp(prefix="retrograd-soak-logs-"))
            for log in (folder / "logs").glob("*.log"):
                (kept / log.name).write_bytes(log.read_bytes())
            sys.stderr.write(f"logs are kept in {kept}\n")
    if clients.error:
        raise clients.error
    return result


def settled(sessions, clients, seconds=20.0):
    """Histories, and what still breaks a rule once the janitors have had time to tidy up."""
    deadline = time.monotonic() + seconds
    while True:
        with sessions() as session:
            found = history.read(session, clients.seen)
        broken = history.violations(found, accepted=clients.accepted)
        if not broken or time.monotonic() > deadline:
            return found, broken
        time.sleep(0.5)  # polls


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--between", type=float, nargs=2, default=(3.0, 7.0), help="seconds from fault to fault")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    found = soak(arguments.minutes, arguments.seed, *arguments.between)
    text = json.dumps(found, indent=1)
    arguments.result.write_text(text + "\n")
    print(text)
    sound = not (found["lost"] or found["stuck"] or found["run_twice"] or found["violations"])
    sys.exit(0 if sound and found["memory_flat"] else 1)


if __name__ == "__main__":
    main()
