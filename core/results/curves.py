"""Meta-iterations as a table in a file: JSON by column, CSV, or Parquet."""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np

from core.store.curves import Column
from core.store.models import Job

SCHEMA = "retrograd.curves.v1"
Format = Literal["json", "csv", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
MEDIA: dict[Format, str] = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8; header=present",
    "parquet": "application/vnd.apache.parquet",
}

_ROWS_PER_CHUNK = 1 << 10
_BYTES_PER_CHUNK = 1 << 16
_IN_MEMORY = 16 << 20


def rendered(job: Job, columns: Sequence[Column], format: Format) -> Iterator[bytes]:
    """The table as a file, in pieces."""
    match format:
        case "json":
            return as_json(job, columns)
        case "csv":
            return as_csv(columns)
        case "parquet":
            return as_parquet(job, columns)


def as_json(job: Job, columns: Sequence[Column]) -> Iterator[bytes]:
    """A list for each column; null where nothing is known, or a number is not finite."""
    head = {
        "schema": SCHEMA,
        "job_id": str(job.id),
        "state": job.state,
        "best_iteration": job.best_iteration,
        "rows": _rows(columns),
    }
    yield f'{json.dumps(head)[:-1]}, "columns": {{'.encode()
    for number, column in enumerate(columns):
        yield f"{', ' if number else ''}{json.dumps(column.name)}: [".encode()
        for start in range(0, len(column.values), _ROWS_PER_CHUNK):
            listed = json.dumps([_finite(one) for one in _listed(column, start)], allow_nan=False)
            yield f"{', ' if start else ''}{listed[1:-1]}".encode()
        yield b"]"
    yield b"}}\n"


def as_csv(columns: Sequence[Column]) -> Iterator[bytes]:
    """A line for each row after one of names; nothing where nothing is known. Numbers that are not finite are nan, inf
    and -inf; all others read back as the same bits.
    """
    yield _lines([[column.name for column in columns]])
    for start in range(0, _rows(columns), _ROWS_PER_CHUNK):
        yield _lines(zip(*([_written(one) for one in _listed(column, start)] for column in columns), strict=True))


def as_parquet(job: Job, columns: Sequence[Column]) -> Iterator[bytes]:
    """The same bits and types, null where nothing is known; which job it is stands in the file's metadata."""
    import pyarrow as pa  # large, and of no use to other formats
    import pyarrow.parquet as pq

    types = {"integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_(), "string": pa.string()}
    arrays = [
        pa.array(column.values, types[column.kind], mask=~column.known, from_pandas=False) for column in columns
    ]
    about = {"schema": SCHEMA, "job_id": str(job.id), "spec_sha256": job.spec_sha256}
    table = pa.table(arrays, names=[column.name for column in columns])
    table = table.replace_schema_metadata({f"retrograd.{name}": value for name, value in about.items()})
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
        pq.write_table(table, file)
        file.seek(0)
        while chunk := file.read(_BYTES_PER_CHUNK):
            yield chunk


def _rows(columns: Sequence[Column]) -> int:
    return len(columns[0].values)


def _listed(column: Column, start: int) -> list[Any]:
    """Some values as Python's own, None where nothing is known."""
    part = slice(start, start + _ROWS_PER_CHUNK)
    found = column.values[part].astype(object)
    found[~column.known[part]] = None
    listed: list[Any] = np.asarray(found).tolist()
    return listed


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _written(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def _lines(rows: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
