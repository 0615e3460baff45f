"""What is sent to be kept, as files."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

Data: TypeAlias = Path | str | tuple[Path | str, Path | str] | Mapping[str, Any]
"""A file; two IDX files, images and labels; or arrays by name."""

_IDX = ("images", "labels")
_ARRAYS = ("images", "inputs", "labels", "targets")


@contextlib.contextmanager
def files_of(data: Data) -> Iterator[dict[str, BinaryIO]]:
    """Open files by the parts of a form.

    Raises:
        ValueError: an array has a name that says nothing.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(data, Mapping):
            yield {"file": stack.enter_context(_as_npz(data))}
        else:
            paths = {"file": data} if isinstance(data, Path | str) else dict(zip(_IDX, data, strict=True))
            yield {part: stack.enter_context(Path(path).open("rb")) for part, path in paths.items()}


def file_of(content: Path | str | bytes) -> BinaryIO:
    """An open file."""
    return io.BytesIO(content) if isinstance(content, bytes) else Path(content).open("rb")


@contextlib.contextmanager
def _as_npz(arrays: Mapping[str, Any]) -> Iterator[BinaryIO]:
    if strays := sorted(set(arrays) - {*_ARRAYS}):
        raise ValueError(
            f"data sets have no arrays named {', '.join(strays)}; name one `images` or `inputs`, and one `labels` or "
            "`targets`"
        )
    import numpy as np  # only where arrays are at hand

    with tempfile.TemporaryFile() as file:
        np.savez_compressed(file, **arrays)
        yield cast(BinaryIO, file)
