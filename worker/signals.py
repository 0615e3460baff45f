"""A worker's processes: what the parent tells its child at shutdown, and how the child starts.

SIGTERM and Ctrl-C reach the parent, which would wait for the job to end, hours perhaps. So it tells its
child, by SIGUSR2; the job's next `lease.check()` gives the job back, and the worker ends within seconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import Any

from celery.signals import worker_init, worker_process_init, worker_ready, worker_shutting_down

from core import device
from core.config import get_settings
from core.store.session import close_store, open_store
from worker import health, postmortem

stopping = threading.Event()  # in the child: set once its worker shuts down

_pool: Any = None  # in the parent


@worker_init.connect
def _prepare_parent(**_: Any) -> None:
    postmortem.provide()


@worker_ready.connect
def _start_parent(sender: Any, **_: Any) -> None:
    global _pool  # worker_shutting_down does not say which
    _pool = sender.pool
    health.beat("worker")
    sender.timer.call_repeatedly(health.BEAT_SECONDS, health.beat, ("worker",))


@worker_shutting_down.connect
def _tell_children(how: str, **_: Any) -> None:
    if how != "Warm" or _pool is None:  # a cold shutdown has ended them already
        return
    for pid in _pool.info["processes"]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR2)


@worker_process_init.connect
def _start_child(**_: Any) -> None:
    signal.signal(signal.SIGUSR2, lambda *_: stopping.set())
    device.prepare()
    settings = get_settings()
    sessions = open_store(settings.database_url, application="retrograd worker")
    postmortem.settle(sessions, settings.max_attempts)
    close_store(sessions)
