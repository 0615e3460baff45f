"""Uploads over HTTP: what is answered, how much memory it takes, and jobs about them."""

import base64
import gzip
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.api.problems import assert_problem
from tests.builders import document
from tests.conftest import serving
from tests.uploads import making

SPLIT = {"train": 20, "valid": 5, "test": 5}


@pytest.fixture
def post(client):
    def post(files, name="mine", headers=None, **fields):
        parts = {part: (part, content) for part, content in files.items()}
        return client.post("/v1/datasets", data={"name": name, **fields}, files=parts, headers=headers)

    return post


def sound():
    return {"file": making.npz(True, **making.arrays(np.random.default_rng(0)))}


def job(dataset_id, **changes):
    dataset = {"id": dataset_id, "split": SPLIT}
    return document({"problem.dataset": dataset, "training.batch_size": 10, **changes})


def test_data_are_uploaded_looked_at_listed_and_deleted(client, post):
    answer = post(sound())
    assert answer.status_code == 201
    found = answer.json()
    assert re.fullmatch(r"ds_[0-9a-f]{24}", found["id"])
    assert answer.headers["Location"] == f"/v1/datasets/{found['id']}"
    assert found["inputs"] == {"shape": [30, 4, 4], "dtype": "uint8"}
    assert found["labels"] == {"shape": [30], "dtype": "int32"}
    assert found["class_counts"] == [10, 10, 10]
    assert found["bytes"] == 30 * 16 + 30 * 4 + 2 * 128
    assert client.get(answer.headers["Location"]).json() == found
    assert found["table"] is None
    listed = {name: value for name, value in found.items() if name != "table"}
    assert client.get("/v1/datasets").json() == {"data": [listed], "next": None}
    assert client.delete(f"/v1/datasets/{found['id']}").status_code == 204
    assert_problem(client.get(f"/v1/datasets/{found['id']}"), 404, "unknown_dataset")
    assert_problem(client.delete(f"/v1/datasets/{found['id']}"), 404, "unknown_dataset")


def test_sent_twice_it_is_the_same(post):
    first, again, renamed = post(sound()), post(sound()), post(sound(), name="another")
    assert (first.status_code, again.status_code, renamed.status_code) == (201, 200, 201)
    assert first.json() == again.json()
    assert renamed.json()["sha256"] == first.json()["sha256"]
    assert renamed.json()["id"] != first.json()["id"]


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_idx_files_come_in_two_parts(post, compress):
    files = {part: compress(content) for part, content in making.SOUND_IDX.items()}
    assert post(files, kind="idx").status_code == 201


def test_pages_and_bad_cursors(client, post):
    names = [post(sound(), name=f"n{number}").json()["name"] for number in range(3)]
    first = client.get("/v1/datasets?limit=2").json()
    second = client.get("/v1/datasets", params={"limit": 2, "after": first["next"]}).json()
    assert [one["name"] for one in first["data"] + second["data"]] == names[::-1]
    assert second["next"] is None
    nul = base64.urlsafe_b64encode(b"2026-01-01T00:00:00+00:00 \0").decode()
    for cursor in ("x", "2020-01-01", "AAAA", "MjAyMC0wMS0wMVQwMDowMDowMCB4", nul):
        assert_problem(client.get("/v1/datasets", params={"after": cursor}), 422, "invalid_cursor")


def test_another_project_sees_nothing_of_it(client, stranger, post):
    dataset_id = post(sound()).json()["id"]
    unknown = "ds_" + "0" * 24
    assert stranger.get("/v1/datasets").json()["data"] == []
    answers = [
        (stranger.get(f"/v1/datasets/{one}"), stranger.delete(f"/v1/datasets/{one}"), stranger.post("/v1/jobs", json=job(one)))
        for one in (dataset_id, unknown)
    ]  # fmt: skip
    for theirs, nobodys in zip(*answers, strict=True):
        assert theirs.status_code == nobodys.status_code >= 400
        assert theirs.text.replace(dataset_id, "") == nobodys.text.replace(unknown, "")
    problem = assert_problem(answers[0][2], 422, "invalid_spec")
    assert problem["errors"][0]["loc"] == ["problem", "dataset", "id"]
    assert client.get(f"/v1/datasets/{dataset_id}").status_code == 200


def test_a_job_about_uploaded_data(client, post):
    dataset = post(sound()).json()
    created = client.post("/v1/jobs", json=job(dataset["id"]))
    assert created.status_code == 202, created.text
    wanted = created.json()["spec"]["problem"]["dataset"]
    assert wanted == {
        "id": dataset["id"],
        "sha256": dataset["sha256"],
        "split": SPLIT,
        "corrupted": 0.0,
        "standardise": "none",
    }
    assert created.json()["num_hyperparameters"] == 21
    problem = assert_problem(client.delete(f"/v1/datasets/{dataset['id']}"), 409, "dataset_in_use")
    assert problem["jobs"] == 1
    again = client.post("/v1/jobs", json=created.json()["spec"])  # what is answered can be sent
    assert again.json()["spec_sha256"] == created.json()["spec_sha256"]
    for one in (created, again):
        client.post(f"/v1/jobs/{one.json()['id']}/cancel")
    assert client.delete(f"/v1/datasets/{dataset['id']}").status_code == 204
    assert client.get(f"/v1/jobs/{created.json()['id']}").json()["spec"] == created.json()["spec"]


@pytest.mark.parametrize(
    ("changes", "loc", "says"),
    [
        ({"split": SPLIT | {"train": 21}}, ["split"], "holds 30 examples; lower"),
        ({"sha256": "0" * 64}, ["sha256"], "give that, or leave it out"),
        ({"sha256": "x"}, ["sha256"], "pattern"),
        ({"id": "ds_x"}, ["id"], "pattern"),
        ({"id": "ds_" + "0" * 24 + "\n"}, ["id"], "pattern"),
        ({"id": 7}, ["id"], "string"),
        ({"name": "digits"}, [], "has an id and a name"),
        ({"split": ...}, ["split"], "required"),
        ({"colour": 1}, ["colour"], "unknown field"),
    ],
)
def test_a_wrong_field_of_its_data_is_named(client, post, changes, loc, says):
    wanted = {
        "problem.dataset.id": post(sound()).json()["id"],
        "problem.dataset.name": ...,
        "problem.dataset.split": SPLIT,
    }
    changed = {f"problem.dataset.{name}": value for name, value in changes.items()}
    answer = client.post("/v1/jobs", json=document(wanted | {"training.batch_size": 10} | changed))
    problem = assert_problem(answer, 422, "invalid_spec")
    assert [error["loc"] for error in problem["errors"]] == [["problem", "dataset", *loc]]
    assert says in problem["detail"]


def test_augmentation_needs_square_images(client, post):
    rng = np.random.default_rng(0)
    for shape, status in (((4, 4), 202), ((2, 8), 422), ((16,), 422)):
        dataset = post({"file": making.npz(**making.arrays(rng, shape=shape))}).json()
        augmented = {"hyperparameters.augmentation": {"learn": True}}
        assert client.post("/v1/jobs", json=job(dataset["id"], **augmented)).status_code == status


def test_a_bomb_is_413_and_other_kinds_415(post):
    assert_problem(post(making.wrong("archive: 1 MB for 1 GiB")), 413, "dataset_too_large")
    for name in making.NOT_DATA:
        problem = assert_problem(post({"file": making.NOT_DATA[name]}), 415, "unsupported_media_type")
        assert "npz archive as `file`, or IDX files" in problem["detail"]
    for kind in ("csv", "parquet", "x" * 700):
        assert_problem(post(sound(), kind=kind), 415, "unsupported_media_type")


@pytest.mark.parametrize("name", ["", "x" * 201, "a\0b", "line\nline", "\x1b[31m", "\u202e"])
def test_a_name_that_cannot_be_shown(post, name):
    assert "name: is needed" in assert_problem(post(sound(), name=name), 422, "invalid_dataset")["detail"]


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("application/x-www-form-urlencoded", b"name=x", 415),
        ("", b"", 415),
        ("multipart/form-data", b"", 400),
        ("multipart/form-data; boundary=", b"", 422),
        ("multipart/form-data; boundary=" + "x" * 300, b"", 400),
        ("multipart/form-data; boundary=b; charset=undefined", b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nx\r\n--b--', 415),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--", 400),
        ("multipart/form-data; boundary=b", b"not multipart", 400),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nx\r\n--b--', 422),
        ("multipart/form-data; boundary=b", b"--b\r\n" + b"A: b\r\n" * 1000 + b"\r\n\r\n--b--", 400),
        ("multipart/form-data; boundary=b", b"--b\r\nA: " + b"b" * 100_000 + b"\r\n\r\n\r\n--b--", 400),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\n' + b"x" * 100_000 + b"\r\n--b--", 400),
    ],
)  # fmt: skip
def test_what_is_not_a_form(client, content_type, body, status):
    answer = client.post("/v1/datasets", content=body, headers={"Content-Type": content_type})
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_parts_that_nobody_asked_for(client, post):
    content = sound()["file"]
    for data, files in (
        ({"name": "x", "colour": "red"}, {"file": content}),
        ({"name": "x", "file": "text"}, {"file": content}),
        ({"name": ["x", "y"]}, {"file": content}),
        ({"name": "x"}, [("file", content), ("file", content)]),
        ({"name": "x"}, {"name": content}),
        ({"name": "x"}, {"other": content}),
        ({"name": "x"}, {"images": content}),
        ({"name": "x"}, [(f"f{number}", b"") for number in range(50)]),
        ({f"f{number}": "x" for number in range(50)}, {"file": content}),
    ):
        assert client.post("/v1/datasets", data=data, files=files).status_code in (400, 422)


def test_without_a_key_nothing_is_read(client):
    del client.headers["Authorization"]
    answer = client.post("/v1/datasets", files=sound(), data={"name": "x"})
    assert_problem(answer, 401, "unauthorized")
    answer = client.post("/v1/datasets", content=b"no form", headers={"Content-Type": "multipart/form-data"})
    assert_problem(answer, 401, "unauthorized")  # and not 400


def test_its_own_limit_is_kept_to_and_others_keep_theirs(settings):
    small = settings.model_copy(update={"max_upload_bytes": 2 << 20})
    with serving(small) as client:
        fits = making.npz(images=np.random.default_rng(0).random((200, 1000)), labels=np.arange(200) % 2)
        assert 1 << 20 < len(fits) < 2 << 20
        assert client.post("/v1/datasets", data={"name": "x"}, files={"file": fits}).status_code == 201
        too_large = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + fits * 2
        for content in (too_large, (piece for piece in [too_large])):
            headers = {"Content-Type": "multipart/form-data; boundary=b"}
            answer = client.post("/v1/datasets", content=content, headers=headers)
            problem = assert_problem(answer, 413, "body_too_large")
            assert str((2 << 20) + (1 << 16)) in problem["detail"]
        answer = client.post("/v1/jobs", content=fits, headers={"Content-Type": "application/json"})
        assert_problem(answer, 413, "body_too_large")


def test_a_server_without_storage_says_what_to_set(settings):
    with serving(settings.model_copy(update={"storage_url": ""})) as client:
        answer = client.post("/v1/datasets", data={"name": "x"}, files=sound())
        problem = assert_problem(answer, 503, "storage_unavailable")
        assert "RETROGRAD_STORAGE_URL" in problem["detail"]
        assert client.get("/v1/datasets").json()["data"] == []


def test_a_storage_that_cannot_be_written_is_an_outage(settings, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with serving(settings.model_copy(update={"storage_url": str(tmp_path / "file" / "blobs")})) as client:
        answer = client.post("/v1/datasets", data={"name": "x"}, files=sound())
        problem = assert_problem(answer, 503, "storage_unavailable")
        assert answer.headers["Retry-After"]
        assert str(tmp_path) not in str(problem)


def test_something_like_a_bucket_does_as_well(settings):
    with serving(settings.model_copy(update={"storage_url": "memory://bucket/prefix"})) as client:
        first = client.post("/v1/datasets", data={"name": "x"}, files=sound())
        again = client.post("/v1/datasets", data={"name": "x"}, files=sound())
    assert (first.status_code, again.status_code) == (201, 200)
    import fsspec

    memory = fsspec.filesystem("memory")
    sha256 = first.json()["sha256"]
    assert [path for path in memory.store if "bucket" in path] == [f"/bucket/prefix/{sha256[:2]}/{sha256}"]
    memory.store.clear()


def test_every_wrong_file_is_answered_with_little_memory_and_leaves_nothing(settings, post):
    for name in making.WRONG:
        making.wrong(name)  # made once, and not while memory is watched
    post({"file": making.NOT_DATA["text"]})
    answers, grown = peak_memory(lambda: {name: post(making.wrong(name)) for name in making.WRONG})
    for name, answer in answers.items():
        assert 400 <= answer.status_code < 500, (name, answer.text)
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert len(answers) > 150
    assert grown < 64 << 20
    assert not any(path.is_file() for path in Path(settings.storage_url).rglob("*"))


def refused(post, seeds):
    """Send files changed at random; returns how many were refused. No answer is an error of ours."""
    statuses = [(seed, post(making.mutated(np.random.default_rng(seed))).status_code) for seed in seeds]
    assert [(seed, status) for seed, status in statuses if status >= 500] == []
    return sum(status >= 400 for _, status in statuses)


def peak_memory(work):
    """What `work` returns, and by how many bytes this process, server included, was larger at its largest."""
    before = int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10
    Path("/proc/self/clear_refs").write_text("5")  # forgets the largest so far
    result = work()
    largest = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10
    return result, largest - before


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in (1, 2, 3))])
def test_hundreds_of_files_changed_at_random_are_refused_with_little_memory(post, part):
    refused(post, range(10**6, 10**6 + 5))  # loads what is loaded once
    count, grown = peak_memory(lambda: refused(post, range(150 * part, 150 * (part + 1))))
    assert count > 90
    assert grown < 64 << 20


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_10_000_files_changed_at_random_are_refused(post, part):
    refused(post, range(10**6, 10**6 + 5))
    count, grown = peak_memory(lambda: refused(post, range(5000 + 700 * part, 5000 + 700 * (part + 1))))
    assert count >= 500
    assert grown < 64 << 20


def test_large_data_are_streamed(post):
    """Fifty megabytes come and go, on disk."""
    with tempfile.TemporaryFile() as file:
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (800, 256, 256), np.uint8)
        np.savez(file, images=images, labels=np.arange(800) % 2)
        size = file.tell()
        del images
        assert size > 50 << 20
        file.seek(0)
        answer, grown = peak_memory(lambda: post({"file": file}))
    assert answer.status_code == 201, answer.text
    assert grown < 40 << 20
