"""A job that takes too much ends, and one whose process dies goes on; their worker is ready for the next either way.

With a real worker, its own memory and its own processes.
"""

import signal

import psutil
import pytest

from tests.builders import document, eventually
from tests.conftest import running, serving

HUNGRY = {  # autodiff through all steps holds every state: half a megabyte each, four gigabytes in all
    "problem.model": {"kind": "mlp", "hidden": [160, 160]},
    "training.num_steps": 8000,
    "hyperparameters.step_size": {"learn": True, "initial": 0.01},
    "meta": {"num_iterations": 1, "evaluation_seeds": 1},
    "engine": "unrolled",
}
LONG = {"training.num_steps": 400, "meta": {"num_iterations": 1000, "evaluation_seeds": 1}}

SECONDS = 280  # most of it compiling, on a machine that may be busy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.fault(
    injected="a job that takes more memory than it may; kill -9 of the child under a long lease",
    checked="failed: out_of_memory while the next succeeds; the killed one goes on at once",
)
def test_a_worker_outlives_what_its_jobs_do(settings, tmp_path):
    patient = settings.model_copy(
        update={"lease_seconds": 600.0, "janitor_seconds": 0.3, "heartbeat_seconds": 0.5}
    )
    environ = {"RETROGRAD_JOB_MEMORY_BYTES": str(400 << 20)}
    with (
        serving(patient) as client,
        running("worker.janitor", patient, tmp_path / "janitor.log"),
        running("worker", patient, tmp_path / "worker.log", **environ) as worker,
    ):

        def submit(changes):
            return client.post("/v1/jobs", json=document(changes)).json()["id"]

        def look(job_id):
            return client.get(f"/v1/jobs/{job_id}").json()

        def ended(job_id):
            return eventually(
                lambda: (job := look(job_id))["state"] in ("succeeded", "failed", "cancelled") and job, SECONDS
            )

        ids = [submit(HUNGRY), submit({})]
        hungry, modest = map(ended, ids)
        assert (hungry["state"], hungry["error"]["code"], hungry["attempt"]) == ("failed", "out_of_memory", 1)
        assert hungry["error"]["details"]["taken"] < 1 << 30  # noticed long before it had all it wanted
        assert (modest["state"], modest["attempt"]) == ("succeeded", 1)

        killed = submit(LONG)
        eventually(lambda: look(killed)["progress"]["meta_iteration"] > 1, SECONDS)
        child = max(psutil.Process(worker.pid).children(), key=lambda process: process.memory_info().rss)
        child.send_signal(signal.SIGKILL)
        eventually(lambda: look(killed)["attempt"] == 2, SECONDS)  # its lease would have kept it for ten minutes
        client.post(f"/v1/jobs/{killed}/cancel")
        assert ended(killed)["state"] == "cancelled"
