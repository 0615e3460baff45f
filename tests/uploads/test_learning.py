"""Jobs on uploaded data learn what they learn on the same data by name."""

import io
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from core import datasets, presets
from core.datasets import DatasetInfo, GivenData
from core.errors import InvalidSpec
from core.shapes import groups_for
from core.spec import JobSpec
from tests.builders import document, eventually
from tests.conftest import running, serving
from tests.uploads import making

SPLIT = {"train": 1000, "valid": 400, "test": 397}
ID, SHA256 = "ds_" + "0" * 24, "a" * 64


def digits():
    """Images [n, 8, 8] and labels, as scikit-learn has them, in bytes."""
    found = load_digits()
    return found.images.astype(np.uint8), found.target


def spec_on(**dataset):
    return JobSpec.model_validate(document({"problem.dataset": {"split": SPLIT, **dataset}}))


def given(images, labels):
    return GivenData(images, labels.astype(np.int32), SHA256)


@pytest.mark.parametrize("corrupted", [0.0, 0.3])
def test_the_same_data_by_name_and_uploaded_are_split_to_the_same_bits(corrupted):
    by_name = datasets.load(spec_on(name="digits", corrupted=corrupted).problem.dataset)
    images, labels = digits()
    for shape in ((-1, 8, 8), (-1, 64)):
        wanted = spec_on(id=ID, corrupted=corrupted).problem.dataset
        uploaded = datasets.load(wanted, given(images.reshape(shape), labels))
        for part in ("train", "valid", "test"):
            for one, other in zip(getattr(by_name, part), getattr(uploaded, part), strict=True):
                np.testing.assert_array_equal(one, other)
                assert one.dtype == other.dtype
        np.testing.assert_array_equal(by_name.mean, uploaded.mean)
        np.testing.assert_array_equal(by_name.true_labels, uploaded.true_labels)
        assert uploaded.sha256 == SHA256


def test_floats_are_taken_as_they_are():
    images, labels = digits()
    scaled = datasets.load(spec_on(id=ID).problem.dataset, given(images / 16.0, labels))
    as_bytes = datasets.load(spec_on(id=ID).problem.dataset, given(images, labels))
    np.testing.assert_array_equal(scaled.train.inputs, as_bytes.train.inputs)


def test_groups_follow_from_what_is_known_of_the_data():
    info = DatasetInfo(ID, 2000, 30, 7, square=False)
    shapes = [group.shape for group in groups_for(spec_on(id=ID), info)]
    assert shapes == [(30, 7), (7,)]


def test_without_the_data_their_field_is_named():
    with pytest.raises(InvalidSpec, match=f"problem.dataset.id: {ID} is known to the server"):
        groups_for(spec_on(id=ID))
    with pytest.raises(InvalidSpec, match=r"problem.dataset.id"):
        datasets.load(spec_on(id=ID).problem.dataset)


def test_the_digest_of_a_job_names_its_data_by_content():
    one, other = spec_on(id=ID), spec_on(id="ds_" + "1" * 24)
    assert one.sha256() != other.sha256()  # nobody knows whether they are the same
    assert one.pinned(SHA256).sha256() == other.pinned(SHA256).sha256()
    assert one.pinned(SHA256).sha256() != one.pinned("b" * 64).sha256()
    assert JobSpec.model_validate(one.pinned(SHA256).model_dump(mode="json")) == one.pinned(SHA256)
    with pytest.raises(ValueError, match="not about uploaded data"):
        presets.get("digits-schedules").pinned(SHA256)


@pytest.mark.slow
def test_a_job_on_uploaded_digits_learns_the_same_bits(settings, tmp_path):
    """Through API, storage, janitor and worker; the data set is deleted afterwards, and a job that needs it says so."""
    images, labels = digits()
    split = {"train": 200, "valid": 100, "test": 100}
    settings = settings.model_copy(update={"janitor_seconds": 0.3})
    folders = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "jax"), "XDG_CACHE_HOME": str(tmp_path)}
    with (
        serving(settings) as client,
        running("worker.janitor", settings, tmp_path / "janitor.log"),
        running("worker", settings, tmp_path / "worker.log", **folders),
    ):

        def submit(**dataset):
            answer = client.post("/v1/jobs", json=document({"problem.dataset": {"split": split, **dataset}}))
            assert answer.status_code == 202, answer.text
            return answer.json()["id"]

        def ended(job_id):
            def done():
                job = client.get(f"/v1/jobs/{job_id}").json()
                return job if job["state"] in ("succeeded", "failed") else None

            return eventually(done, 200)

        def learned(job_id):
            answer = client.get(f"/v1/jobs/{job_id}/hyperparameters?iteration=last&format=npz")
            with np.load(io.BytesIO(answer.content)) as arrays:
                return {name: arrays[name].tobytes() for name in ("step_size", "momentum")}

        file = making.npz(True, images=images, labels=labels)
        dataset = client.post("/v1/datasets", data={"name": "digits"}, files={"file": file}).json()
        by_name, uploaded = submit(name="digits"), submit(id=dataset["id"])
        jobs = [ended(by_name), ended(uploaded)]
        assert [job["state"] for job in jobs] == ["succeeded", "succeeded"], jobs
        assert learned(by_name) == learned(uploaded)
        assert jobs[0]["losses"] == jobs[1]["losses"]
        assert jobs[1]["provenance"]["dataset_sha256"] == dataset["sha256"]
        assert jobs[1]["provenance"]["spec_sha256"] == jobs[1]["spec_sha256"]
        (blob,) = Path(settings.storage_url).rglob(dataset["sha256"])
        blob.write_bytes(blob.read_bytes()[:-1])
        damaged = ended(submit(id=dataset["id"]))
        assert (damaged["state"], damaged["error"]["code"]) == ("failed", "damaged_blob")
        assert client.delete(f"/v1/datasets/{dataset['id']}").status_code == 204
        assert client.post(f"/v1/jobs/{damaged['id']}/retry").status_code == 202
        gone = ended(damaged["id"])
        assert (gone["state"], gone["error"]["code"]) == ("failed", "unknown_dataset")
