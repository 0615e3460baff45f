"""What a job is going to take, foretold without running it: `python -m core.foretell --seconds 60 --bytes 4294967296`.

Reads a JobSpec as JSON from standard input and writes one JSON document: `{"plan": …}`, or `{"error": …}` where the job
cannot be run. A process of its own, as it loads JAX, and as a problem may be too large or too slow to be looked at: it
ends by itself when it has taken too long, even if who started it is gone, and gets no more memory than it is given.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any

from core import device, uploads
from core.config import get_settings
from core.datasets import GivenData
from core.errors import CoreError, StorageUnavailable
from core.own_problems import GivenOwn, fetched
from core.spec import JobSpec
from core.storage import open_storage

if TYPE_CHECKING:
    from core.engines import Prediction
    from core.learning import Learner

_SHARE = 0.7  # of the time, until which something new is begun
_NICENESS = 10  # whoever started it has requests to answer


def foretell(spec: JobSpec, seconds: float = math.inf) -> dict[str, Any]:
    """The plan of a job as JSON values.

    `engine` is the one that the job will take, and `fallback` the one it turns to where that one's gradient cannot be
    proven. `engines` holds a prediction for each that a specification can name: `seconds`, `device_bytes` and
    `host_bytes` of one hypergradient on this `machine`, its programs compiled before, and `job_seconds` of all
    `hypergradients` of the job; null where the probe failed, or there was no time for it within so many `seconds`, for
    which `remark` has the reason. The job's own engine is probed in any case, and first. The job's `trainings`
    without a gradient, for evaluation and search, at most, come on top: each takes less than a hypergradient.

    Raises:
        CoreError: the job cannot be run as it stands.
    """
    from core.learning import Learner  # JAX; after its limits are set

    learner = Learner.from_spec(spec, given=_given(spec))
    hypergradients = spec.num_iterations * spec.meta.seeds_per_iteration
    return {
        "machine": learner.provenance()["device"],
        "engine": learner.engine.name,
        "fallback": "unrolled" if spec.engine == "auto" else None,
        "hypergradients": hypergradients,
        "trainings": _trainings(spec),
        "engines": [_described(one, hypergradients) for one in _predictions(learner, seconds)],
    }


def _given(spec: JobSpec) -> GivenData | GivenOwn | None:
    """The data or the program that the specification names by digests; who asks may see them."""
    if not spec.has_uploads:
        return None
    storage = open_storage(get_settings())
    if storage is None:
        raise StorageUnavailable("what was uploaded cannot be read: there is no RETROGRAD_STORAGE_URL")
    if spec.uploaded is None:
        return fetched(spec, storage.opened)
    if (sha256 := spec.uploaded.sha256) is None:
        raise StorageUnavailable("uploaded data cannot be read without their digest")
    with storage.opened(sha256) as file:
        return uploads.canonical.read(file, sha256)


def _predictions(learner: Learner, seconds: float) -> list[Prediction]:
    """Of the job's own engine first, then of the others that it could name instead."""
    found = list(learner.plan(seconds).predictions)
    return sorted(found, key=lambda one: one.name != learner.engine.name)


def _described(one: Prediction, hypergradients: int) -> dict[str, Any]:
    known = math.isfinite(one.seconds)
    return {
        "name": one.name,
        "fits": one.fits,
        "seconds": one.seconds if known else None,
        "job_seconds": one.seconds * hypergradients if known else None,
        "device_bytes": one.memory.device_bytes if known else None,
        "host_bytes": one.memory.host_bytes if known else None,
        "remark": one.remark,
    }


def _trainings(spec: JobSpec) -> int:
    meta = spec.meta
    evaluations = 3 + (meta.warm_start is not None)  # initial, best, last; and where the search led
    if meta.safeguard is not None and spec.kind == "learn":
        evaluations += 1 + math.ceil(spec.num_iterations / meta.safeguard.every)
    return evaluations * meta.evaluation_seeds + (meta.warm_start.trials if meta.warm_start is not None else 0)


def main() -> None:
    """Answer for the specification on standard input."""
    parser = argparse.ArgumentParser(prog="python -m core.foretell", description="Foretell what a job will take.")
    parser.add_argument("--seconds", type=float, default=60.0, help="end, by SIGALRM, after this long")
    parser.add_argument("--bytes", type=int, default=4 << 30, help="memory that may be taken")
    limits = parser.parse_args()
    signal.setitimer(
        signal.ITIMER_REAL, limits.seconds
    )  # without a handler it ends the process, whatever it is at
    # what it writes to, and not the address space: JAX reserves far more of that than it ever uses
    resource.setrlimit(resource.RLIMIT_DATA, (limits.bytes, limits.bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(_NICENESS)
    device.prepare()  # with the workers' cache where there is one: what is compiled here, a job need not compile again
    spec = JobSpec.model_validate_json(sys.stdin.buffer.read())
    try:
        document: dict[str, Any] = {"plan": foretell(spec, _SHARE * limits.seconds)}
    except CoreError as error:
        document = {"error": {"code": error.code, "message": str(error), "details": error.details()}}
    except Exception as error:
        if not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)):  # as XLA has it
            raise
        message = f"it needs more than the {limits.bytes} bytes that it may take"
        document = {"error": {"code": "out_of_memory", "message": message, "details": {}}}
    signal.setitimer(signal.ITIMER_REAL, 0)  # in time; the end of a process may take long on a busy machine
    json.dump(document, sys.stdout, allow_nan=False)


if __name__ == "__main__":
    main()
