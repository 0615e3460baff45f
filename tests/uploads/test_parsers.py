"""What users send is believed in nothing: sound data are read bit for bit, all else is refused with little memory."""

import gzip
import hashlib
import io
import tempfile
import tracemalloc

import numpy as np
import pytest

from core import uploads
from core.errors import DatasetTooLarge, InvalidDataset, UnsupportedDataset
from core.uploads import canonical
from tests.uploads import making

LIMIT = 1 << 30


def normalise(files, max_bytes=LIMIT, kind=None):
    """Data, digest and summary of an upload."""
    sent = {name: io.BytesIO(content) for name, content in files.items()}
    with tempfile.TemporaryFile() as file:
        found = uploads.normalise(sent, kind, file, max_bytes)
        file.seek(0)
        content = file.read()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (found.sha256, found.size)
        file.seek(0)
        return canonical.read(file, found.sha256), found


TYPES = ["u1", "i1", "<u2", ">u2", "<i4", ">i8", "<u8", "<f2", "<f4", ">f4", "<f8", ">f8", "?"]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(50, 6), (50, 3, 4)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_come_through_bit_for_bit(dtype, shape, order, compressed):
    rng = np.random.default_rng(0)
    images = np.asarray(rng.integers(0, 100, shape).astype(dtype), order=order)
    labels = (np.arange(50) % 7).astype(rng.choice(["u1", "<i8", ">i4"]))
    data, found = normalise({"file": making.npz(compressed, inputs=images, labels=labels, more=np.arange(5))})
    np.testing.assert_array_equal(data.inputs, images)
    np.testing.assert_array_equal(data.labels, labels)
    assert data.inputs.dtype.isnative
    assert found.summary["inputs"]["shape"] == list(shape)
    assert found.summary["class_counts"] == np.bincount(labels).tolist()
    assert data.info.square is False


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_idx_files_come_through_bit_for_bit(dtype, compress):
    images = np.random.default_rng(0).integers(0, 100, (50, 4, 4)).astype(dtype)
    labels = (np.arange(50) % 3).astype("u1")
    files = {"images": compress(making.idx(images)), "labels": compress(making.idx(labels))}
    data, _ = normalise(files)
    np.testing.assert_array_equal(data.inputs, images)
    np.testing.assert_array_equal(data.labels, labels)
    assert (data.info.square, data.info.num_features, data.info.num_classes) == (True, 16, 3)


def test_the_same_data_have_the_same_digest_however_they_were_sent():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (50, 4, 4)).astype("u1"), (np.arange(50) % 3).astype("u1")
    sent = [
        {"file": making.npz(False, images=images, labels=labels)},
        {"file": making.npz(True, labels=labels.astype(">i8"), inputs=np.asfortranarray(images), x=np.ones(3))},
        {"images": making.idx(images), "labels": gzip.compress(making.idx(labels))},
    ]
    digests = {normalise(files)[1].sha256 for files in sent}
    assert len(digests) == 1
    other = images.copy()
    other[49, 3, 3] ^= 1
    for different in (
        {"file": making.npz(images=other, labels=labels)},
        {"file": making.npz(images=images, labels=labels[::-1])},
        {"file": making.npz(images=images.astype(float), labels=labels)},
        {"file": making.npz(images=images.reshape(50, 16), labels=labels)},
    ):
        assert normalise(different)[1].sha256 not in digests


def test_whole_numbers_are_scaled_and_floats_are_not():
    labels = np.array([0, 1])
    for images, scale in (
        (np.array([[0, 16], [3, 4]], np.uint8), 16.0),
        (np.array([[0, -32768], [3, 4]], np.int16), 32768.0),
        (np.zeros((2, 2), int), 1.0),
        (np.array([[0, 16], [3, 4.0]]), 1.0),
    ):
        assert normalise({"file": making.npz(images=images, labels=labels)})[1].summary["scale"] == scale


@pytest.mark.parametrize("name", making.WRONG)
def test_what_is_wrong_is_refused(name):
    with pytest.raises((InvalidDataset, UnsupportedDataset)) as caught:
        normalise(making.wrong(name))
    text = str(caught.value)
    assert ":" in text or "labels" in text  # names a part or an entry
    assert text.isprintable()
    assert len(text) < 400


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("values: one NaN far in", "images.npy: example 3999 holds NaN"),
        ("values: half infinity", "images.npy: example 7 "),
        ("values: beyond float32", "images.npy: example 7 "),
        ("values: negative label", "labels.npy: example 2 has label -1"),
        ("values: float labels", r"labels.npy: .*astype\(int\)"),
        ("values: fewer labels", "images.npy holds 4 examples, labels.npy 3 labels"),
        ("values: objects", "images.npy: is of type object"),
        ("values: no labels", "holds images; .* labels, are needed"),
        ("archive: twice", "labels.npy: is there twice"),
        ("archive: encrypted", "images.npy: is encrypted"),
        ("archive: a link", "images.npy: is not a plain file"),
        ("archive: method 14", "images.npy: is compressed by method 14"),
        ("archive: wrong CRC", "images.npy: cannot be read"),
        ("archive: bomb of 64 MiB", "more than 200 times as much"),
        ("archive: header of 4 GiB", "header of 4294967295 bytes"),
        ("archive: named '../images.npy'", r"'../images.npy': is not a name"),
        ("header: 4 TiB", "declares|declare"),
        ("idx: gzip bomb", "images and labels inflate|holds"),
    ],
)
def test_errors_name_the_entry_and_the_reason(name, says):
    with pytest.raises((InvalidDataset, UnsupportedDataset), match=says):
        normalise(making.wrong(name))


def test_bombs_are_too_large_and_not_merely_invalid():
    bomb = making.wrong("archive: 1 MB for 1 GiB")
    assert len(bomb["file"]) < 4 << 20
    with pytest.raises(
        DatasetTooLarge, match=r"images.npy: declares 1073741\d{3} bytes, more than 1073741824; send less"
    ):
        normalise(bomb)
    with pytest.raises(DatasetTooLarge, match="more than 200 times as much"):
        normalise(bomb, max_bytes=2 << 30)
    with pytest.raises(DatasetTooLarge, match="2147483648 bytes, more than 1048576"):
        normalise(making.wrong("archive: size too large"), max_bytes=1 << 20)


def test_refusals_take_little_memory():
    for name in making.WRONG:
        making.wrong(name)  # made once, and not while memory is traced
    tracemalloc.start()
    try:
        for name in making.WRONG:
            sent = {part: io.BytesIO(content) for part, content in making.wrong(name).items()}
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            with pytest.raises((InvalidDataset, UnsupportedDataset)):
                uploads.normalise(sent, None, _Nowhere(), LIMIT)
            _, peak = tracemalloc.get_traced_memory()
            assert peak - before < 16 << 20, name
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("order", ["C", "F"])
def test_large_data_are_read_in_pieces(order):
    images = np.zeros((400, 256, 256), np.float32, order=order)
    images[:, :64] = np.random.default_rng(0).random((400, 64, 256), np.float32)  # 100 MiB, compressed to 25
    content = making.npz(images=images, labels=np.arange(400) % 2)
    del images
    sent = {"file": io.BytesIO(content)}
    tracemalloc.start()
    try:
        found = uploads.normalise(sent, None, _Nowhere(), LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.size > 100 << 20
    assert peak < 16 << 20


def test_a_limit_is_kept_to():
    content = {"file": making.npz(images=np.ones((100, 100)), labels=np.arange(100) % 2)}
    with pytest.raises(DatasetTooLarge, match=r"declare 80800 bytes, more than 80799; send fewer"):
        normalise(content, max_bytes=80_799)
    assert normalise(content, max_bytes=81_000)


def test_other_entries_are_never_inflated():
    """A bomb beside the data goes off nowhere."""
    sound = making.arrays(np.random.default_rng(0))
    entries = [making.Entry(f"{name}.npy", making.npy(array)) for name, array in sound.items()]
    data, _ = normalise({"file": making.zipped(*entries, making.bomb_entry("more.npy", 512 << 20))})
    np.testing.assert_array_equal(data.inputs, sound["images"])


def refused(rng):
    """Whether a mutated upload is refused; one that is read must be what NumPy reads from it."""
    files = making.mutated(rng)
    try:
        data, _ = normalise(files)
    except (InvalidDataset, UnsupportedDataset):
        return True
    if "file" in files:
        with np.load(io.BytesIO(files["file"])) as loaded:
            np.testing.assert_array_equal(data.inputs, loaded["images"])
            np.testing.assert_array_equal(data.labels, loaded["labels"])
    return False


@pytest.mark.parametrize("seed", range(8))
def test_files_changed_at_random_are_refused_or_read_as_numpy_reads_them(seed):
    rng = np.random.default_rng(seed)
    assert sum(refused(rng) for _ in range(150)) > 75


class _Nowhere(io.RawIOBase):
    def write(self, data):
        return len(data)


@pytest.mark.parametrize("flag", [8, 16], ids=["name", "comment"])
def test_a_gzip_header_without_an_end_is_refused_at_once(flag):
    images = gzip.compress(making.idx(np.zeros((2, 3, 3), np.uint8)))
    labels = making.idx(np.array([0, 1], np.uint8))
    endless = images[:3] + bytes([flag]) + images[4:10] + b"x" * (1 << 20) + b"\0" + images[10:]
    with pytest.raises(InvalidDataset, match="images: has a gzip header of more than 131072 bytes"):
        normalise({"images": endless, "labels": labels})
    named = images[:3] + bytes([flag]) + images[4:10] + b"train-images\0" + images[10:]
    normalise({"images": named, "labels": labels})
