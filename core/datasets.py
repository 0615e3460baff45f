"""Data sets: what is in them (cheap, from headers) and their arrays, split. NumPy only.

`digits` ships with scikit-learn. Any other name is a folder of the data folder (`RETROGRAD_DATA`) that holds
MNIST-style IDX files: `*images*idx3-ubyte[.gz]` beside `*labels*idx1-ubyte[.gz]`; several pairs are joined. Uploaded
data are not looked for: whoever has them gives them.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

import numpy as np

from core.config import get_settings
from core.errors import InvalidDataset, InvalidSpec, UnknownDataset
from core.spec import Dataset, UploadedDataset

_MAX_BYTES = 1 << 30
_T = TypeVar("_T")
_CLASSES = 10
_CORRUPTION_SEED = 1
_ROUNDING = 1e-12
_SHUFFLE_SEED = 0  # one fixed shuffle for ever: the same split gives the same examples everywhere


@dataclass(frozen=True)
class DatasetInfo:
    """What a classifier must know of a data set before it sees an example."""

    name: str
    num_examples: int
    num_features: int
    num_classes: int  # 0: labels are targets, numbers to fit
    square: bool  # whether features are the pixels of square images
    image: tuple[int, int] | None = None  # height and width, where an example has two axes
    classes_without_examples: int = 0

    @property
    def classes_present(self) -> int:
        """Classes that have examples."""
        return self.num_classes - self.classes_without_examples


class GivenData(NamedTuple):
    """A whole data set as it was given."""

    inputs: np.ndarray  # [n, features] or [n, height, width]
    labels: np.ndarray  # [n], integers from 0; floats, if they are targets
    sha256: str

    @property
    def info(self) -> DatasetInfo:
        """What there is to know before an example is seen."""
        counts = () if self.labels.dtype.kind == "f" else np.bincount(self.labels)
        return info_of(self.sha256, self.inputs.shape, counts)


class Examples(NamedTuple):
    """Inputs [n, features] float64 and labels [n], of the same length; on the host or on a device.

    Labels are classes, int32, or targets, float64.
    """

    inputs: Any
    labels: Any


class SplitData(NamedTuple):
    """Disjoint parts of a data set; inputs scaled (whole numbers to [-1, 1]), less the mean of the training part, and
    where it is asked for divided by its standard deviation, feature by feature.
    """

    train: Examples
    valid: Examples
    test: Examples
    sha256: str  # of all inputs and labels as they were given
    mean: np.ndarray  # of the training inputs, taken from all
    true_labels: np.ndarray  # [train], before some were replaced
    target_unit: float = 1.0  # what targets were divided by

    @property
    def corrupted(self) -> np.ndarray:
        """Which training labels were replaced."""
        return np.asarray(self.train.labels != self.true_labels)


def available() -> list[str]:
    """Names that `describe` and `load` know here."""
    folder = get_settings().data
    names = {"digits"}
    if folder is not None and folder.is_dir():
        names |= {path.name for path in folder.iterdir() if path.is_dir() and _idx_pairs(path)}
    return sorted(names)


def describe(name: str) -> DatasetInfo:
    """Sizes of a data set, from headers alone.

    Raises:
        UnknownDataset: nothing of this name is here.
        InvalidDataset: its files contradict each other.
    """
    if name == "digits":
        return DatasetInfo("digits", 1797, 64, _CLASSES, square=True, image=(8, 8))
    num_examples, shapes = 0, set[tuple[int, ...]]()
    for images, labels in _pairs_of(name):
        count, *shape = _read_idx(images, partial(_idx_shape, path=images, ndim=3))
        (label_count,) = _read_idx(labels, partial(_idx_shape, path=labels, ndim=1))
        if count != label_count:
            raise InvalidDataset(f"{images.name} holds {count} images, {labels.name} {label_count} labels")
        num_examples += count
        shapes.add(tuple(shape))
    if len(shapes) != 1:
        raise InvalidDataset(f"data set {name!r} mixes images of {sorted(shapes)} pixels; keep one size")
    height, width = shapes.pop()
    square = height == width
    return DatasetInfo(name, num_examples, height * width, _CLASSES, square=square, image=(height, width))


def info_of(name: str, shape: tuple[int, ...], class_counts: Sequence[int] | np.ndarray) -> DatasetInfo:
    """Of inputs of this shape, and so many examples of each class; of none, if labels are targets.

    Only inputs with two axes an example are images.
    """
    image = (shape[1], shape[2]) if len(shape) == 3 else None
    return DatasetInfo(
        name,
        num_examples=shape[0],
        num_features=math.prod(shape[1:]),
        num_classes=len(class_counts),
        square=image is not None and image[0] == image[1],
        image=image,
        classes_without_examples=len(class_counts) - int(np.count_nonzero(class_counts)),
    )


def scale_of(dtype: np.dtype, largest: float) -> float:
    """What inputs are divided by: whole numbers by their largest magnitude; floats are taken as they are."""
    return largest if dtype.kind in "iu" and largest > 0 else 1.0


def load(dataset: Dataset | UploadedDataset, given: GivenData | None = None) -> SplitData:
    """The data set, shuffled by a fixed permutation, split, scaled, centred and standardised.

    Args:
        dataset: which, and how to split it.
        given: the data, where they were uploaded.
    """
    if isinstance(dataset, UploadedDataset):
        if given is None:
            raise _not_given(dataset)
        info, digest, labels = given.info, given.sha256, given.labels
        inputs = given.inputs.reshape(info.num_examples, info.num_features)
        scale = scale_of(inputs.dtype, max(-float(inputs.min()), float(inputs.max())))
    else:
        inputs, labels = _digits() if dataset.name == "digits" else _idx_arrays(dataset.name)
        info = describe(dataset.name)
        digest = hashlib.sha256(inputs.tobytes() + labels.tobytes()).hexdigest()
        scale = 16.0 if dataset.name == "digits" else 255.0
    split = dataset.split
    check_fits(dataset, info)
    order = np.random.Generator(np.random.PCG64(_SHUFFLE_SEED)).permutation(len(inputs))[: split.total]
    scaled = inputs[order].astype(np.float64) / scale
    mean = scaled[: split.train].mean(axis=0)
    scaled -= mean
    if dataset.standardise != "none":
        scaled /= _units(scaled[: split.train], mean)
    if labels.dtype.kind == "f":
        ordered, target_unit = _targets(labels[order].astype(np.float64), dataset)
    else:
        ordered, target_unit = labels[order].astype(np.int32), 1.0
    ends = [split.train, split.train + split.valid]
    parts = zip(np.split(scaled, ends), np.split(ordered, ends), strict=True)
    train, valid, test = (Examples(*part) for part in parts)
    spoiled = train
    if info.num_classes:
        spoiled = train._replace(labels=_corrupt(train.labels, dataset.corrupted, info.num_classes))
    return SplitData(spoiled, valid, test, digest, mean, train.labels, target_unit)


def _targets(targets: np.ndarray, dataset: Dataset | UploadedDataset) -> tuple[np.ndarray, float]:
    """Targets as training sees them, and what they were divided by."""
    if dataset.standardise != "all":
        return targets, 1.0
    mean = targets[: dataset.split.train].mean()
    centred = targets - mean
    unit = float(_units(centred[: dataset.split.train], mean))
    return centred / unit, unit


def _units(centred: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Standard deviation of each column; 1 where only rounding tells its values apart, as in a constant one."""
    deviation = np.asarray(np.sqrt(np.mean(np.square(centred), axis=0)))
    return np.where(deviation > _ROUNDING * np.abs(mean), deviation, 1.0)


def _corrupt(labels: np.ndarray, share: float, num_classes: int) -> np.ndarray:
    """Labels of which this share is replaced by another class."""
    draw = np.random.Generator(np.random.PCG64(_CORRUPTION_SEED))
    corrupted = np.zeros(len(labels), bool)
    corrupted[draw.permutation(len(labels))[: round(share * len(labels))]] = True
    others = (labels + draw.integers(1, num_classes, len(labels))) % num_classes
    return np.where(corrupted, others, labels).astype(labels.dtype)


def check_fits(dataset: Dataset | UploadedDataset, info: DatasetInfo) -> None:
    """Raise InvalidSpec when the split asks for more examples than there are."""
    if dataset.split.total > info.num_examples:
        raise InvalidSpec(
            (
                ("problem", "dataset", "split"),
                f"train + valid + test is {dataset.split.total}, but {_name(dataset)} holds "
                f"{info.num_examples} examples; lower them",
            )
        )


def describe_for(dataset: Dataset | UploadedDataset, uploaded: DatasetInfo | None = None) -> DatasetInfo:
    """`describe` a specification's data set and check its split against it; errors name the field.

    Args:
        dataset: which, and how it is to be split.
        uploaded: what is known of it, where it was uploaded.

    Raises:
        InvalidSpec: unknown or damaged data set, or a split larger than the data.
    """
    if isinstance(dataset, UploadedDataset):
        if uploaded is None:
            raise _not_given(dataset)
        info = uploaded
    else:
        try:
            info = describe(dataset.name)
        except (UnknownDataset, InvalidDataset) as error:
            raise InvalidSpec((("problem", "dataset", "name"), str(error))) from error
    check_fits(dataset, info)
    return info


def _not_given(dataset: UploadedDataset) -> InvalidSpec:
    return InvalidSpec(
        (("problem", "dataset", "id"), f"{dataset.id} is known to the server it was uploaded to; use a name here")
    )


def _name(dataset: Dataset | UploadedDataset) -> str:
    return dataset.id if isinstance(dataset, UploadedDataset) else dataset.name


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # seconds to import; only where the data is used

    bunch = load_digits()
    return bunch.data.astype(np.uint8), bunch.target.astype(np.uint8)


def _idx_arrays(name: str) -> tuple[np.ndarray, np.ndarray]:
    describe(name)
    inputs, labels = [], []
    for images, label_file in _pairs_of(name):
        array = _read_idx(images, partial(_idx_array, path=images, ndim=3))
        inputs.append(array.reshape(len(array), -1))
        labels.append(_read_idx(label_file, partial(_idx_array, path=label_file, ndim=1)))
    all_labels = np.concatenate(labels)
    if all_labels.size and all_labels.max() > 9:
        raise InvalidDataset(f"data set {name!r} has label {all_labels.max()}; labels must be 0 to 9")
    return np.concatenate(inputs), all_labels


def _pairs_of(name: str) -> list[tuple[Path, Path]]:
    folder = get_settings().data
    pairs = _idx_pairs(folder / name) if folder is not None and name in available() else []
    if not pairs:
        remedy = "; set RETROGRAD_DATA to the folder that holds it" if folder is None else f" (looked in {folder})"
        raise UnknownDataset(name, available(), remedy)
    return pairs


def _idx_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Image files with their label files; `train` before `t10k`, as names sort in reverse."""
    images = sorted(folder.glob("*images*idx3-ubyte*"), reverse=True)
    pairs = [
        (path, path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))) for path in images
    ]
    return [(image, label) for image, label in pairs if label.is_file()]


def _read_idx(path: Path, read: Callable[[BinaryIO], _T]) -> _T:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            return read(cast(BinaryIO, file))
    except (OSError, EOFError, struct.error) as error:
        raise InvalidDataset(f"cannot read {path.name}: {error}") from error


def _idx_shape(file: BinaryIO, path: Path, ndim: int) -> tuple[int, ...]:
    magic = struct.unpack(">BBBB", file.read(4))
    if magic != (0, 0, 8, ndim):
        raise InvalidDataset(f"{path.name} is not an IDX file of unsigned bytes with {ndim} dimensions")
    shape = struct.unpack(f">{ndim}I", file.read(4 * ndim))
    if int(np.prod(shape, dtype=object)) > _MAX_BYTES:
        raise InvalidDataset(f"{path.name} declares {shape}, more than {_MAX_BYTES} bytes")
    return shape


def _idx_array(file: BinaryIO, path: Path, ndim: int) -> np.ndarray:
    shape = _idx_shape(file, path, ndim)
    size = int(np.prod(shape))
    data = file.read(size + 1)  # one more than declared: a longer file is not what it says
    if len(data) != size:
        raise InvalidDataset(f"{path.name} declares {size} bytes of data, but does not hold exactly that many")
    return np.frombuffer(data, np.uint8).reshape(shape)
