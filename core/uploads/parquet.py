"""Tables as Parquet files, read by PyArrow: flat columns of numbers, truth values or text.

PyArrow's reader is C++ that has had faults, and a page may inflate to whatever it says: this runs in a process of its
own, with bounded memory (`core.uploads.apart`). What a file's footer declares is held against the limits before.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.errors import DatasetTooLarge, InvalidDataset
from core.uploads.batches import MAX_ROWS, Batch, Values
from core.uploads.roles import check_names

MAGICS = (b"PAR1",)

_MAX_FOOTER_BYTES = 1 << 24
_MAX_ROW_GROUPS = 1 << 16
_MAX_THRIFT = 1 << 20
_BATCH_CELLS = 1 << 16
_UNREADABLE = (
    pa.ArrowException,
    OSError,
    ValueError,
    TypeError,
    OverflowError,
    RuntimeError,
    KeyError,
    IndexError,
)
_SAVE = "save it again with pandas.DataFrame.to_parquet, or send CSV"


class ParquetTable:
    """A table in a file.

    Args:
        file: seekable.
        max_bytes: of its pages, decompressed.
    """

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        _check_footer(file)
        try:
            self._file = pq.ParquetFile(
                file,
                memory_map=False,
                pre_buffer=False,
                thrift_string_size_limit=_MAX_FOOTER_BYTES,
                thrift_container_size_limit=_MAX_THRIFT,
                page_checksum_verification=True,
            )
            metadata, schema = self._file.metadata, self._file.schema_arrow
            _check_metadata(metadata, max_bytes)
            self.names: tuple[str, ...] = tuple(schema.names)
            self._types = {field.name: field.type for field in schema}
            self._rows = metadata.num_rows
            nested = metadata.num_columns != len(self.names)
        except MemoryError:
            raise
        except _UNREADABLE as error:
            raise InvalidDataset(f"file: is not a sound Parquet file ({_brief(error)}); {_SAVE}") from error
        check_names(self.names)
        if nested:
            raise InvalidDataset(f"file: has columns within columns; flatten them, and {_SAVE}")
        self._wanted = self.names

    def only(self, names: frozenset[str]) -> None:
        """Read the values of these columns alone; those of others are shown as missing.

        Raises:
            InvalidDataset: one of them is of a type that is not read.
        """
        for name in names:
            kind = self._types[name]
            readable = pa.types.is_dictionary(kind) and _is_text(kind.value_type)
            if not (readable or _is_text(kind) or _is_number(kind) or pa.types.is_null(kind)):
                raise InvalidDataset(
                    f"file: column {name!r} is of type {str(kind)[:60]}; convert it to numbers or text, or name it as "
                    "ignored"
                )
        self._wanted = tuple(name for name in self.names if name in names)

    def batches(self) -> Iterator[Batch]:
        """All rows in order, some at a time.

        Raises:
            InvalidDataset: a damaged page.
        """
        size = max(1, _BATCH_CELLS // len(self._wanted))
        first = 0
        batches = self._read(size)
        while (batch := self._next(batches)) is not None:
            known = {name: _values(batch.column(place)) for place, name in enumerate(batch.schema.names)}
            if batch.num_rows:
                blank = [""] * batch.num_rows
                yield Batch(first, [known.get(name, blank) for name in self.names])
            first += batch.num_rows
            if first > self._rows:
                raise InvalidDataset(f"file: holds more rows than the {self._rows} it declares; {_SAVE}")
        if first != self._rows:
            raise InvalidDataset(f"file: declares {self._rows} rows and holds {first}; {_SAVE}")

    def _read(self, size: int) -> Iterator[pa.RecordBatch]:
        try:
            return iter(self._file.iter_batches(size, columns=list(self._wanted), use_threads=False))
        except _UNREADABLE as error:
            raise InvalidDataset(f"file: cannot be read ({_brief(error)}); {_SAVE}") from error

    def _next(self, batches: Iterator[pa.RecordBatch]) -> pa.RecordBatch | None:
        try:
            if (batch := next(batches, None)) is not None:
                batch.validate(full=True)
            return batch
        except MemoryError:
            raise
        except _UNREADABLE as error:
            raise InvalidDataset(f"file: cannot be read ({_brief(error)}); {_SAVE}") from error


def _check_footer(file: BinaryIO) -> None:
    size = file.seek(0, 2)
    if size < 12:
        raise InvalidDataset(f"file: is too short for a Parquet file; {_SAVE}")
    file.seek(size - 8)
    (footer_bytes,), magic = struct.unpack("<I", file.read(4)), file.read(4)
    file.seek(0)
    if magic not in MAGICS:
        raise InvalidDataset(f"file: does not end as a Parquet file does, or is encrypted; {_SAVE}")
    if footer_bytes > min(size - 12, _MAX_FOOTER_BYTES):
        raise InvalidDataset(f"file: declares a footer of {footer_bytes} bytes; {_SAVE}")


def _check_metadata(metadata: Any, max_bytes: int) -> None:
    """Hold the footer against the limits, before a page is read."""
    if not 0 <= metadata.num_rows <= MAX_ROWS:
        raise DatasetTooLarge(f"file: declares {metadata.num_rows} rows, more than {MAX_ROWS}; send fewer")
    if metadata.num_row_groups > _MAX_ROW_GROUPS:
        raise DatasetTooLarge(f"file: has {metadata.num_row_groups} row groups; {_SAVE}")
    total = 0
    for number in range(metadata.num_row_groups):
        # of the group: PyArrow aborts where it is asked for columns whose codec or histogram it does not know
        total += max(0, metadata.row_group(number).total_byte_size)
        if total > max_bytes:
            raise DatasetTooLarge(
                f"file: declares pages of more than {max_bytes} bytes, inflated; send fewer rows"
            )


def _values(column: pa.Array) -> Values:
    """Float64 with NaN where it is missing, or text."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if _is_text(column.type):
        return ["" if value is None else value for value in column.to_pylist()]
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    # unsafe: whole numbers beyond 2**53 are rounded, as they would be from text
    return np.array(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _brief(error: BaseException) -> str:
    text = str(error).partition("\n")[0][:100]
    return "".join(one for one in text if one.isprintable()) or type(error).__name__
