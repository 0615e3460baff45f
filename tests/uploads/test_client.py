"""Uploads by the Python client and by the command."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from retrograd.cli import app
from retrograd.client import ApiError, Client
from tests.uploads import making


@pytest.fixture
def url(client):
    return str(client.base_url)


@pytest.fixture
def key(settings):
    return settings.bootstrap_api_key.get_secret_value()


@pytest.fixture
def retrograd(url, key, monkeypatch, tmp_path):
    monkeypatch.setenv("RETROGRAD_URL", url)
    monkeypatch.setenv("RETROGRAD_API_KEY", key)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, ["datasets", *arguments])


@pytest.fixture
def arrays():
    return making.arrays(np.random.default_rng(0))


def test_files_and_arrays_are_sent_by_the_client(url, key, tmp_path, arrays):
    (tmp_path / "data.npz").write_bytes(making.npz(True, **arrays))
    for part in ("images", "labels"):
        (tmp_path / part).write_bytes(making.idx(arrays[part].astype(np.uint8)))
    with Client(url, key) as client:
        sent = [
            client.upload(data, "mine")
            for data in (
                tmp_path / "data.npz",
                str(tmp_path / "data.npz"),
                (tmp_path / "images", tmp_path / "labels"),
                {"images": arrays["images"], "labels": arrays["labels"]},
            )
        ]
        assert [one["id"] for one in sent] == [sent[0]["id"]] * 4
        assert client.datasets() == [sent[0]] == [client.dataset(sent[0]["id"])]
        client.delete_dataset(sent[0]["id"])
        assert client.datasets() == []
        with pytest.raises(ApiError, match=r"labels are all 0|labels.npy: are all 0"):
            client.upload(arrays | {"labels": np.zeros(30, int)}, "mine")


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
