"""A program from export to result, through real processes: API, checking child, storage, janitor, worker."""

import io
from pathlib import Path

import jax
import numpy as np
import pytest

from core.learning import Learner
from core.programs.given import GivenProgram
from core.spec import JobSpec
from core.uploads import canonical
from tests.builders import eventually
from tests.conftest import running, serving
from tests.programs import recurrent
from tests.uploads import making

jax.config.update("jax_enable_x64", True)

pytestmark = pytest.mark.slow


@pytest.fixture
def client(settings, tmp_path):
    settings = settings.model_copy(update={"janitor_seconds": 0.3})
    folders = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "jax"), "XDG_CACHE_HOME": str(tmp_path)}
    with (
        serving(settings) as client,
        running("worker.janitor", settings, tmp_path / "janitor.log"),
        running("worker", settings, tmp_path / "worker.log", **folders),
    ):
        client.timeout = 120  # programs are compiled when they are sent
        yield client


def test_a_recurrent_net_is_exported_sent_and_learned_from_to_the_same_bits(client, settings):
    inputs, labels = recurrent.sequences()
    file = making.npz(inputs=inputs, labels=labels)
    data = client.post("/v1/datasets", data={"name": "sequences"}, files={"file": file}).json()
    content = recurrent.exported()
    assert content == recurrent.exported()
    sent = client.post("/v1/programs", data={"name": "recurrent"}, files={"file": ("net.zip", content)})
    assert sent.status_code == 201, sent.text
    program = sent.json()
    assert {one["name"]: one["shape"] for one in program["hyper"]} == {
        "log_scale": [], "log_l2": [], "log_step": [12], "momentum": [],
    }  # fmt: skip
    assert program["deterministic"]
    assert "stablehlo.dot_general" in program["stablehlo_ops"]

    wanted = {
        "name": "recurrent",
        "problem": {
            "kind": "program",
            "id": program["id"],
            "data": {"train": data["id"]},
            "initial": {"log_l2": -6.0},
        },
        "training": {"optimizer": "sgd", "num_steps": 12},
        "meta": {"num_iterations": 4, "evaluation_seeds": 2},
    }
    plan = client.post("/v1/jobs?dry_run=true", json=wanted)
    assert plan.status_code == 200, plan.text
    assert (plan.json()["engine"], plan.json()["num_hyperparameters"]) == ("reversible", 15)

    job = ended(client, submit(client, wanted))
    assert job["state"] == "succeeded", job
    assert job["certificate"]["exact"]
    assert job["certificate"]["engine"] == "reversible"
    assert job["losses"]["best"]["outer"] < job["losses"]["initial"]["outer"]
    assert job["losses"]["best"]["train"] is None
    assert "accuracy" in job["losses"]["best"]["measures"]
    assert job["provenance"]["spec_sha256"] == job["spec_sha256"]

    learned = result(client, job["id"])
    spec = JobSpec.model_validate(job["spec"])
    blob = Path(settings.storage_url) / data["sha256"][:2] / data["sha256"]
    given = GivenProgram(content, {"train": canonical.read(io.BytesIO(blob.read_bytes()), data["sha256"])})
    *_, last = Learner.from_spec(spec, given=given).run()
    assert set(learned) == set(last.checkpoint.values) == set(recurrent.HYPER)
    for name, values in last.checkpoint.values.items():
        assert learned[name].tobytes() == values.tobytes(), name
    shown = client.get(f"/v1/jobs/{job['id']}/hyperparameters").json()["hyperparameters"]
    assert np.shape(shown["log_step"]["values"]) == (12,)
    assert "losses" in [one["name"] for one in client.get(f"/v1/jobs/{job['id']}/figures").json()["data"]]

    (kept,) = Path(settings.storage_url).rglob(program["sha256"])
    kept.write_bytes(content[:-1])
    damaged = ended(client, submit(client, wanted))
    assert (damaged["state"], damaged["error"]["code"]) == ("failed", "damaged_blob")
    assert client.delete(f"/v1/programs/{program['id']}").status_code == 204
    assert client.post(f"/v1/jobs/{damaged['id']}/retry").status_code == 202
    gone = ended(client, damaged["id"])
    assert (gone["state"], gone["error"]["code"]) == ("failed", "unknown_program")
    assert result(client, job["id"]).keys() == learned.keys()  # results stay


def submit(client, wanted):
    answer = client.post("/v1/jobs", json=wanted)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def ended(client, job_id):
    def done():
        job = client.get(f"/v1/jobs/{job_id}").json()
        return job if job["state"] in ("succeeded", "failed") else None

    return eventually(done, 250)


def result(client, job_id):
    answer = client.get(f"/v1/jobs/{job_id}/hyperparameters?iteration=last&format=npz")
    assert answer.status_code == 200, answer.text
    with np.load(io.BytesIO(answer.content)) as arrays:
        return {name: arrays[name] for name in recurrent.HYPER}
