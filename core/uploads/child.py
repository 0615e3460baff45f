"""Tables, read in a process of their own: `python -m core.uploads.child`, started by `core.uploads.apart`.

Reads what it is asked as JSON from standard input, and the upload from a file descriptor; writes the canonical form to
another, and one line of JSON to standard output: `{"found": …}`, or `{"error": …}` where the upload is refused.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
from typing import Any, BinaryIO

from core.errors import CoreError, DatasetTooLarge, InvalidDataset
from core.uploads import canonical, tables
from core.uploads.batches import Table
from core.uploads.canonical import Canonical
from core.uploads.csv_rows import CsvTable
from core.uploads.roles import Roles, assign

_NICENESS = 10  # whoever started it has requests to answer
_DISK_SHARE = 4  # scratch files of that many times the largest data set


def normalised(file: BinaryIO, kind: str, roles: Roles, to: BinaryIO, max_bytes: int) -> Canonical:
    """Check a table and write it to `to` in canonical form. In this process: the caller has bounded its memory.

    Raises:
        InvalidDataset: damaged, contradictory, or with values that cannot be learned from.
        DatasetTooLarge: more than `max_bytes`, or a decompression bomb.
    """
    compressed_bytes = file.seek(0, 2)
    file.seek(0)
    table = _parquet(file, roles, max_bytes) if kind == "parquet" else CsvTable(file)
    with tables.opened(table, roles, compressed_bytes, max_bytes) as (found, described):
        written = canonical.write(found, to)
    return written._replace(summary=written.summary | {"table": described._asdict()})


def _parquet(file: BinaryIO, roles: Roles, max_bytes: int) -> Table:
    from core.uploads.parquet import ParquetTable  # PyArrow: large, and of no use to CSV

    table = ParquetTable(file, max_bytes)
    assigned = assign(roles, table.names)
    table.only(frozenset(table.names[place] for place in (assigned.target, *assigned.features)))
    return table


def limit(seconds: int, memory_bytes: int, disk_bytes: int) -> None:
    """Bound what this process may take. It ends by a signal when it has taken too long, whoever started it."""
    signal.setitimer(signal.ITIMER_REAL, 2 * seconds)
    for kind, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_DATA, memory_bytes),
        (resource.RLIMIT_FSIZE, disk_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # PyArrow's own would set a gigabyte aside at once


def main() -> None:
    """Answer for the upload that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m core.uploads.child")
    for name in ("--from", "--to", "--seconds", "--memory-bytes", "--max-bytes"):
        parser.add_argument(name, type=int, required=True, dest=name.strip("-").replace("-", "_"))
    parser.add_argument("--kind", choices=("csv", "parquet"), required=True)
    given = parser.parse_args()
    os.nice(_NICENESS)
    limit(given.seconds, given.memory_bytes, _DISK_SHARE * given.max_bytes)
    document: dict[str, Any]
    try:
        roles = Roles.model_validate_json(sys.stdin.buffer.read())
        with os.fdopen(getattr(given, "from"), "rb") as file, os.fdopen(given.to, "wb") as to:
            document = {"found": normalised(file, given.kind, roles, to, given.max_bytes)._asdict()}
    except (InvalidDataset, DatasetTooLarge) as error:
        document = _error(error)
    except MemoryError:
        document = _error(
            DatasetTooLarge(
                f"file: takes more than {given.memory_bytes} bytes to read; send it as CSV, or in parts"
            )
        )
    except OSError as error:  # of the disk: those of the upload are told apart before
        document = {"error": {"code": "os_error", "message": error.strerror or str(error)}}
    json.dump(document, sys.stdout, allow_nan=False)


def _error(error: CoreError) -> dict[str, Any]:
    return {"error": {"code": error.code, "message": str(error)}}


if __name__ == "__main__":
    main()
