"""Uploads by the Python client and by the command."""

import json
from functools import partial

import numpy as np
import pytest

from retrograd.client import ApiError, Client
from tests.uploads import making


@pytest.fixture
def retrograd(command):
    return partial(command, "datasets")


@pytest.fixture
def arrays():
    return making.arrays(np.random.default_rng(0))


def test_files_and_arrays_are_sent_by_the_client(url, key, tmp_path, arrays):
    (tmp_path / "data.npz").write_bytes(making.npz(True, **arrays))
    for part in ("images", "labels"):
        (tmp_path / part).write_bytes(making.idx(arrays[part].astype(np.uint8)))
    with Client(url, key) as client:
        sent = [
            client.datasets.upload(data, "mine")
            for data in (
                tmp_path / "data.npz",
                str(tmp_path / "data.npz"),
                (tmp_path / "images", tmp_path / "labels"),
                {"images": arrays["images"], "labels": arrays["labels"]},
            )
        ]
        assert [one["id"] for one in sent] == [sent[0]["id"]] * 4
        assert client.datasets.get(sent[0]["id"]) == sent[0]
        assert client.datasets.list() == [{name: value for name, value in sent[0].items() if name != "table"}]
        client.datasets.delete(sent[0]["id"])
        assert client.datasets.list() == []
        with pytest.raises(ApiError, match=r"labels are all 0|labels.npy: are all 0"):
            client.datasets.upload(arrays | {"labels": np.zeros(30, int)}, "mine")


def test_the_command_uploads_lists_and_deletes(retrograd, tmp_path, arrays):
    assert "No data sets yet" in retrograd("list").stdout
    (tmp_path / "flowers.npz").write_bytes(making.npz(**arrays))
    run = retrograd("upload", "flowers.npz")
    assert run.exit_code == 0, run.output
    dataset_id = run.stdout.split()[0]
    assert f'"dataset": {{"id": "{dataset_id}", "split": …}}' in run.stdout
    listed = retrograd("list").stdout
    assert all(word in listed for word in (dataset_id, "flowers", "30 × 4 × 4 uint8"))
    [row] = json.loads(retrograd("list", "--json").stdout)
    assert (row["id"], row["name"]) == (dataset_id, "flowers")
    assert retrograd("delete", dataset_id).exit_code == 0
    assert "No data sets yet" in retrograd("list").stdout


def test_idx_files_are_given_in_order(retrograd, tmp_path, arrays):
    for part in ("images", "labels"):
        (tmp_path / part).write_bytes(making.idx(arrays[part].astype(np.uint8)))
    assert retrograd("upload", "images", "labels", "--name", "mine").exit_code == 0
    assert isinstance(retrograd("upload", "labels", "images", "--name", "mine").exception, ApiError)
    assert retrograd("upload", "images", "labels", "images").exit_code == 2


HOUSES = """rooms,town,id,price
3,Aachen,1,310.5
4,[bold]Bonn,2,410.25
,Aachen,3,300.75
5,Bonn,4,500.0
"""


def test_a_table_is_sent_by_the_client(url, key, tmp_path):
    (tmp_path / "houses.csv").write_text(HOUSES)
    with Client(url, key) as client:
        roles = {"target": "price", "categorical": ["town"], "ignored": ["id"], "missing": "mean"}
        sent = client.datasets.upload(tmp_path / "houses.csv", "houses", roles)
        assert sent["inputs"]["shape"] == [4, 4]
        assert sent["target"]["max"] == 500
        with pytest.raises(ApiError, match=r"row 3 \(line 4\), column 'rooms': is missing"):
            client.datasets.upload(tmp_path / "houses.csv", "houses", {"target": "price", "ignored": ["town"]})


def test_the_command_uploads_and_shows_a_table(retrograd, tmp_path):
    (tmp_path / "houses.csv").write_text(HOUSES)
    roles = ("--target", "price", "--categorical", "town", "--ignore", "id", "--missing", "mean")
    run = retrograd("upload", "houses.csv", *roles)
    assert run.exit_code == 0, run.output
    assert "4 × 4 float64, targets from 300.75 to 500, mean 380.375" in run.stdout
    shown = retrograd("show", run.stdout.split()[0])
    assert shown.exit_code == 0, shown.output
    for word in ("houses", "rooms", "category", "ignored", "Aachen, Bonn, [bold]Bonn", "410.25"):
        assert word in shown.stdout
    as_json = json.loads(retrograd("show", run.stdout.split()[0], "--json").stdout)
    assert as_json["table"]["num_columns"] == 4
    classes = retrograd("upload", "houses.csv", "--target", "town", "--feature", "id", "--name", "towns")
    assert "4 × 1 float64, 3 classes of 2, 1, 1 examples" in classes.stdout
    assert "numbers" in retrograd("list").stdout
    assert retrograd("upload", "houses.csv", "--ignore", "id").exit_code == 2
    refused = retrograd("upload", "houses.csv")
    assert (refused.exit_code, "--target" in refused.output) == (2, True)
