"""Omniglot alphabets: what is in the zip files (cheap, from their directory) and the drawings. NumPy and Pillow.

A folder of the data folder (`RETROGRAD_DATA`) holds zip files with `<root>/<alphabet>/<character>/<drawing>.png` in
them, as Omniglot is published. Drawings are 105 by 105, black on white; here they are 28 by 28, with ink 1 and paper 0.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
import zlib
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from core.config import get_settings
from core.errors import InvalidDataset, InvalidSpec
from core.spec import Alphabets

SIDE = 28
DRAWERS = 20
OUTPUTS = 55  # characters in the largest alphabet of Omniglot: every network has an output for as many
_ENTRY = re.compile(r"[^/]+/(?P<alphabet>[^/]+)/(?P<character>[^/]+)/[^/]+\.png")
_MAX_FILE_BYTES = 1 << 16  # of one drawing; Omniglot's have a few hundred
_MAX_SIDE = 1024
_UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    zlib.error,
    zipfile.BadZipFile,
)  # NotImplementedError too

Entries = dict[str, list[zipfile.ZipInfo]]  # of each character, a drawing for each drawer


class Drawings(NamedTuple):
    """Of several alphabets, in the order asked for."""

    images: tuple[np.ndarray, ...]  # of each alphabet [characters, 20, 28, 28], float64 in [0, 1]
    sha256: str  # of the images


def check(dataset: Alphabets) -> None:
    """Raise InvalidSpec unless the alphabets are here, whole and not too large."""
    directories = None
    for number, name in enumerate(dataset.alphabets):
        try:
            directories = directories or _directories(dataset.name)
            _find(directories, name)
        except InvalidDataset as error:
            raise InvalidSpec((("problem", "dataset", "alphabets", number), str(error))) from error


def load(dataset: Alphabets) -> Drawings:
    """The alphabets' drawings.

    Raises:
        InvalidDataset: one is missing or damaged.
    """
    directories = _directories(dataset.name)
    images = tuple(_alphabet(*_find(directories, name)) for name in dataset.alphabets)
    digest = hashlib.sha256(b"".join(each.tobytes() for each in images)).hexdigest()
    return Drawings(images, digest)


def _directories(folder: str) -> dict[Path, dict[str, Entries]]:
    """What every zip file of the folder holds, by alphabet."""
    data = get_settings().data
    if data is None or not (data / folder).is_dir():
        where = "; set RETROGRAD_DATA to the folder that holds it" if data is None else f" in {data}"
        raise InvalidDataset(f"no folder {folder!r} with Omniglot's zip files{where}")
    return {path: _directory(path) for path in sorted((data / folder).glob("*.zip"))}


def _find(directories: dict[Path, dict[str, Entries]], alphabet: str) -> tuple[Path, Entries]:
    """The zip file that holds the alphabet, and where in it."""
    for path, entries in directories.items():
        if alphabet in entries:
            return path, _checked(alphabet, entries[alphabet])
    known = "; ".join(f"{', '.join(sorted(entries))} in {path.name}" for path, entries in directories.items())
    raise InvalidDataset(f"no alphabet {alphabet!r}; there are {known or 'none'}")


def _directory(path: Path) -> dict[str, Entries]:
    alphabets: dict[str, Entries] = defaultdict(lambda: defaultdict(list))
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if match := _ENTRY.fullmatch(info.filename):
                    alphabets[match["alphabet"]][match["character"]].append(info)
    except _UNREADABLE as error:
        raise InvalidDataset(f"cannot read {path.name}: {error}") from error
    return alphabets


def _checked(alphabet: str, characters: Entries) -> Entries:
    if len(characters) > OUTPUTS:
        raise InvalidDataset(
            f"alphabet {alphabet!r} has {len(characters)} characters; {OUTPUTS} at most are understood"
        )
    for character, drawings in characters.items():
        if len(drawings) != DRAWERS:
            raise InvalidDataset(f"{alphabet}/{character} has {len(drawings)} drawings, not {DRAWERS}")
        if any(info.file_size > _MAX_FILE_BYTES for info in drawings):
            raise InvalidDataset(f"{alphabet}/{character} has a drawing of more than {_MAX_FILE_BYTES} bytes")
    return {name: sorted(characters[name], key=lambda info: info.filename) for name in sorted(characters)}


def _alphabet(path: Path, characters: Entries) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        return np.array(
            [[_drawing(archive, info) for info in drawings] for drawings in characters.values()], np.float64
        )


def _drawing(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    from PIL import Image  # only where drawings are read

    try:
        with archive.open(info) as file, Image.open(file, formats=["PNG"]) as image:
            if max(image.size) > _MAX_SIDE:
                raise InvalidDataset(f"{info.filename} is {image.size} pixels large")
            small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    except (*_UNREADABLE, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidDataset(f"cannot read {info.filename}: {error}") from error
    return 1 - np.asarray(small, np.float64) / 255
