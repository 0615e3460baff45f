"""A program from export to result, through real processes: API, checking child, storage, janitor, worker."""

import io
from pathlib import Path

import numpy as np
import pytest

from core.learning import Learner
from core.own_problems import fetched
from core.spec import JobSpec
from core.storage import open_storage
from tests.builders import eventually
from tests.conftest import running, serving
from tests.programs import recurrent
from tests.uploads import making

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def client(settings, tmp_path):
    patient = {"check_seconds": 500.0, "plan_seconds": 500.0}  # tests share their machine
    settings = settings.model_copy(update={"janitor_seconds": 0.3} | patient)
    folders = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "jax"), "XDG_CACHE_HOME": str(tmp_path)}
    with (
        serving(settings) as client,
        running("worker.janitor", settings, tmp_path / "janitor.log"),
        running("worker", settings, tmp_path / "worker.log", **folders),
    ):
        client.timeout = 520  # programs are compiled when they are sent
        yield client


def test_a_recurrent_net_is_exported_sent_and_learned_from_to_the_same_bits(client, settings, case, exported):
    data = {
        name: client.post("/v1/datasets", data={"name": name}, files={"file": making.npz(**arrays)}).json()
        for name, arrays in case.data.items()
    }
    sent = client.post("/v1/programs", data={"name": "recurrent"}, files={"file": ("net.zip", exported)})
    assert sent.status_code == 201, sent.text
    program = sent.json()
    shapes = {name: list(leaf.shape) for name, leaf in recurrent.flat(case.hyper).items()}
    assert {one["name"]: one["shape"] for one in program["hyper"]} == shapes
    assert program["deterministic"]
    assert "stablehlo.dot_general" in program["stablehlo_ops"]

    wanted = {
        "name": "recurrent",
        "problem": {
            "kind": "program",
            "id": program["id"],
            "data": {name: one["id"] for name, one in data.items()},
            "initial": {"log_l2.inputs": -6.0},
        },
        "training": {"optimizer": "sgd", "num_steps": recurrent.STEPS},
        "meta": {"num_iterations": 4, "evaluation_seeds": 2},
    }
    plan = client.post("/v1/jobs?dry_run=true", json=wanted)
    assert plan.status_code == 200, plan.text
    assert (plan.json()["engine"], plan.json()["num_hyperparameters"]) == (
        "reversible",
        program["num_hyperparameters"],
    )

    job = ended(client, submit(client, wanted))
    assert job["state"] == "succeeded", job
    assert job["certificate"]["exact"]
    assert job["certificate"]["engine"] == "reversible"
    assert job["losses"]["best"]["outer"] < job["losses"]["initial"]["outer"]
    assert job["losses"]["best"]["train"] is None
    assert "valid_accuracy" in job["losses"]["best"]["measures"]
    assert job["provenance"]["spec_sha256"] == job["spec_sha256"]

    learned = result(client, job["id"])
    spec = JobSpec.model_validate(job["spec"])
    *_, last = Learner.from_spec(spec, given=fetched(spec, open_storage(settings).opened)).run()
    assert set(learned) == set(last.checkpoint.values) == set(shapes)
    for name, values in last.checkpoint.values.items():
        assert learned[name].tobytes() == values.tobytes(), name
    shown = client.get(f"/v1/jobs/{job['id']}/hyperparameters").json()["hyperparameters"]
    assert {name: list(np.shape(one["values"])) for name, one in shown.items()} == shapes
    assert "losses" in [one["name"] for one in client.get(f"/v1/jobs/{job['id']}/figures").json()["data"]]

    (kept,) = Path(settings.storage_url).rglob(program["sha256"])
    kept.write_bytes(exported[:-1])
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

    return eventually(done, 900)


def result(client, job_id):
    answer = client.get(f"/v1/jobs/{job_id}/hyperparameters?iteration=last&format=npz")
    assert answer.status_code == 200, answer.text
    with np.load(io.BytesIO(answer.content)) as arrays:
        return {name: arrays[name] for name in arrays.files if name != "document" and "/" not in name}
