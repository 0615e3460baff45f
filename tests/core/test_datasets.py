import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from core import datasets, presets
from core.config import get_settings
from core.errors import InvalidDataset, InvalidSpec, UnknownDataset
from core.spec import JobSpec

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty data folder, in use."""
    monkeypatch.setenv("RETROGRAD_DATA", str(tmp_path))
    get_settings.cache_clear()
    yield tmp_path
    get_settings.cache_clear()


def write_idx(path, array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    data = header + array.astype(np.uint8).tobytes()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_dataset(folder, prefix="train", count=50, suffix=""):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (count, 4, 4)), rng.integers(0, 10, count)
    write_idx(folder / "mine" / f"{prefix}-images-idx3-ubyte{suffix}", images)
    write_idx(folder / "mine" / f"{prefix}-labels-idx1-ubyte{suffix}", labels)
    return images, labels


def spec_on(name, train=20, valid=10, test=10):
    spec = presets.get("digits-schedules").model_dump()
    spec["problem"]["dataset"] = {"name": name, "split": {"train": train, "valid": valid, "test": test}}
    spec["training"]["batch_size"] = 10
    return JobSpec.model_validate(spec)


def test_digits_are_what_they_are_said_to_be():
    info = datasets.describe("digits")
    data = datasets.load(spec_on("digits", 1000, 400, 397).problem.dataset)
    assert (info.num_examples, info.num_features) == (1797, 64)
    assert data.train.inputs.shape == (1000, 64)
    assert set(data.train.labels) == set(range(info.num_classes))
    np.testing.assert_allclose(data.train.inputs.mean(axis=0), 0, atol=1e-15)


def test_a_split_is_disjoint_and_always_the_same(folder):
    images = np.arange(40).reshape(40, 1, 1)  # each image tells its number
    write_idx(folder / "mine" / "x-images-idx3-ubyte", images)
    write_idx(folder / "mine" / "x-labels-idx1-ubyte", np.zeros(40))
    first, again = datasets.load(spec_on("mine").problem.dataset), datasets.load(spec_on("mine").problem.dataset)
    seen = [round(float(pixel[0] - first.train.inputs.min()) * 255) for part in first[:3] for pixel in part.inputs]
    assert len(set(seen)) == 40
    np.testing.assert_array_equal(first.test.inputs, again.test.inputs)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_are_read_and_pairs_joined(folder, suffix):
    write_dataset(folder, "train", 50, suffix)
    write_dataset(folder, "t10k", 30, suffix)
    assert datasets.describe("mine") == datasets.DatasetInfo("mine", 80, 16, 10, square=True, image=(4, 4))
    assert datasets.available() == ["digits", "mine"]
    assert datasets.load(spec_on("mine").problem.dataset).train.inputs.shape == (20, 16)


def test_an_unknown_name_is_told_the_known_ones(folder):
    with pytest.raises(UnknownDataset, match="'other'; known: digits"):
        datasets.describe("other")
    with pytest.raises(InvalidSpec) as caught:
        datasets.describe_for(spec_on("other").problem.dataset)
    assert caught.value.errors[0][0] == ("problem", "dataset", "name")


def test_a_split_larger_than_the_data_names_the_field():
    with pytest.raises(InvalidSpec, match=r"problem.dataset.split: .*1798.*1797 examples; lower"):
        datasets.describe_for(spec_on("digits", 1000, 400, 398).problem.dataset)


def damage_magic(path):
    path.write_bytes(b"\x00\x00\x0d\x03" + path.read_bytes()[4:])


def damage_truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def damage_extend(path):
    path.write_bytes(path.read_bytes() + b"more")


def damage_claim(path):
    path.write_bytes(struct.pack(">BBBB3I", 0, 0, 8, 3, 50, 2**31, 2**31) + path.read_bytes()[16:])


@pytest.mark.parametrize("damage", [damage_magic, damage_truncate, damage_extend, damage_claim])
def test_damaged_files_are_refused_by_name(folder, damage):
    write_dataset(folder)
    damage(folder / "mine" / "train-images-idx3-ubyte")
    with pytest.raises((InvalidDataset, InvalidSpec), match="train-images-idx3-ubyte"):
        datasets.load(spec_on("mine").problem.dataset)


def test_a_damaged_gzip_is_refused(folder):
    write_dataset(folder, suffix=".gz")
    path = folder / "mine" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InvalidDataset, match="cannot read"):
        datasets.load(spec_on("mine").problem.dataset)


def test_counts_that_disagree_are_refused(folder):
    write_dataset(folder)
    write_idx(folder / "mine" / "train-labels-idx1-ubyte", np.zeros(49))
    with pytest.raises(InvalidDataset, match=r"50 images.*49 labels"):
        datasets.describe("mine")


def test_labels_beyond_nine_are_refused(folder):
    write_dataset(folder)
    write_idx(folder / "mine" / "train-labels-idx1-ubyte", np.full(50, 11))
    with pytest.raises(InvalidDataset, match="label 11"):
        datasets.load(spec_on("mine").problem.dataset)


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="the MNIST files are not here")
def test_real_mnist_is_read(monkeypatch):
    monkeypatch.setenv("RETROGRAD_DATA", str(SHARED))
    get_settings.cache_clear()
    try:
        data = datasets.load(presets.get("learning-rate-schedules").problem.dataset)
    finally:
        get_settings.cache_clear()
    assert data.train.inputs.shape == (6000, 784)
    assert np.bincount(data.train.labels).min() > 400
