"""Tables as users send them: sound ones, and ones that were changed at random.

`python -m tests.uploads.tabular KIND FIRST LAST` reads the mutants of those seeds, each in a process within the limits
that the service has, and says how these ended.
"""

import csv
import io
import json
import os
import re
import resource
import struct
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import numpy as np

from core.errors import InvalidDataset
from core.uploads import child
from core.uploads.canonical import read
from core.uploads.roles import Roles

LIMIT = 1 << 30
READ, REFUSED = 10, 11  # how a fork ends
_ENDS = {READ: "read", REFUSED: "refused"}
ROLES = {"target": "species", "categorical": ["town"], "missing": "mean"}


def columns(rng, count=40):
    """Of each kind."""
    return {
        "length": rng.normal(size=count),
        "count": rng.integers(0, 90, count),
        "town": rng.choice(["Aachen", "Bonn, West", 'the "Ruhr"', "Köln"], count).tolist(),
        "note": [f"row\n{number}" for number in range(count)],
        "species": rng.choice(["cat", "dog", "emu"], count).tolist(),
    }


def as_csv(columns, **options):
    file = io.StringIO()
    writer = csv.writer(file, **options)
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow(
            ["" if one is None else repr(float(one)) if isinstance(one, float) else one for one in row]
        )
    return file.getvalue().encode()


def as_parquet(columns, **options):
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), file, **options)
    return file.getvalue()


def normalised(content, roles=None, kind="csv", max_bytes=LIMIT):
    """Data and summary, read in this process."""
    wanted = Roles.model_validate(ROLES if roles is None else roles)
    with tempfile.TemporaryFile() as file:
        found = child.normalised(io.BytesIO(content), kind, wanted, file, max_bytes)
        file.seek(0)
        return read(file, found.sha256), found


def mutated(kind, rng):
    """A sound table in which something was changed at random."""
    table = columns(rng, int(rng.integers(2, 60)))
    table["note"] = [text.replace("\n", " ") for text in table["note"]] if rng.random() < 0.5 else table["note"]
    if kind == "csv":
        content = bytearray(as_csv(table, lineterminator=rng.choice(["\n", "\r\n"])))
    else:
        content = bytearray(
            as_parquet(
                table,
                compression=str(rng.choice(["none", "snappy", "gzip", "zstd"])),
                use_dictionary=bool(rng.random() < 0.5),
                row_group_size=int(rng.integers(1, 60)),
                data_page_version=str(rng.choice(["1.0", "2.0"])),
                write_page_checksum=bool(rng.random() < 0.2),
            )
        )
    for _ in range(rng.integers(1, 4) if rng.random() < 0.2 else 1):
        _change(content, kind, rng)
    return bytes(content)


def _change(content, kind, rng):
    at = int(rng.integers(max(1, len(content))))
    # Parquet names places by number: bytes that are moved leave nothing to read
    match rng.integers(7) if kind == "csv" or rng.random() < 0.2 else rng.choice([1, 1, 2, 4, 5]):
        case 0:  # ends early
            del content[at:]
        case 1:  # flipped bits
            for place in rng.integers(0, max(1, len(content)), rng.integers(1, 9 if kind == "csv" else 3)):
                if place < len(content):
                    content[place] ^= 1 << rng.integers(8)
        case 2:  # a stretch overwritten
            length = int(rng.integers(1, 64))
            length = length if kind == "csv" else min(length, 8)
            content[at : at + length] = rng.bytes(min(length, max(0, len(content) - at)))
        case 3:  # a stretch taken out, or doubled
            length = int(rng.integers(1, 200))
            content[at : at + length] = bytes(content[at : at + length]) * (2 * int(rng.integers(2)))
        case 4:  # a number made huge
            content[at : at + 4] = struct.pack("<I", rng.choice([0, 1, 2**16 - 1, 2**31, 2**32 - 1]))
        case 5 if kind == "csv":  # marks that mean something
            content[at : at + 1] = [b'"', b",", b"\n", b"\r", b"\0", b"\xff", b"nan", b"1e999", b"_", b"'"][
                rng.integers(10)
            ]
        case 5:  # something in the footer, where lengths and types are
            start = max(0, len(content) - 1500)
            for place in rng.integers(start, max(start + 1, len(content)), rng.integers(1, 4)):
                if place < len(content):
                    content[place] = rng.integers(256)
        case _:  # lines exchanged, or a stretch moved
            length = int(rng.integers(1, 300))
            taken = bytes(content[at : at + length])
            del content[at : at + length]
            other = int(rng.integers(max(1, len(content))))
            content[other:other] = taken


def naively_read(content):
    """What a table in CSV says, read in the shortest way: inputs and labels, or an exception."""
    rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))
    names, rows = [name.strip() for name in rows[0]], [row for row in rows[1:] if row]
    each = {name: [row[place].strip() for row in rows] for place, name in enumerate(names)}
    features = []
    for name in names:
        if name == "town":
            values = sorted(set(each[name]) - {""})
            shares = [sum(one == value for one in each[name]) for value in values]
            known = sum(shares)
            for value, share in zip(values, shares, strict=True):
                features.append([share / known if one == "" else float(one == value) for one in each[name]])
        elif name not in ("note", "species"):
            numbers = np.array([float(one) if one.lower() not in _ABSENT else np.nan for one in each[name]])
            features.append(np.where(np.isnan(numbers), np.nanmean(numbers), numbers))
    classes = sorted(set(each["species"]))
    return np.array(features).T, np.array([classes.index(one) for one in each["species"]])


def check_against_naive_reading(data, content, seed):
    inputs, labels = naively_read(content)
    np.testing.assert_allclose(data.inputs, inputs, rtol=1e-12, err_msg=seed)
    np.testing.assert_array_equal(data.labels, labels, err_msg=seed)


_ABSENT = {"", "na", "n/a", "nan", "null", "none", "?"}


def _in_this_process(kind, seed, roles):
    """How a mutant is answered."""
    return _ENDS[_read_mutant(kind, seed, roles)]


def _in_a_fork(kind, seed, roles):
    """How a process ends that reads this mutant."""
    if (pid := os.fork()) == 0:
        try:
            os._exit(_read_mutant(kind, seed, roles))
        except BaseException:
            traceback.print_exc()
            os._exit(99)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return _ENDS.get(code) or f"seed {seed}: {code}"


def _read_mutant(kind, seed, roles):
    content = mutated(kind, np.random.default_rng(seed))
    try:
        data, _ = normalised(content, roles, kind)
    except (InvalidDataset, MemoryError) as error:
        return (
            REFUSED if str(error).isprintable() and len(str(error)) < 400 else 98
        )  # and so a KeyError, or a strange end
    if kind == "csv":
        check_against_naive_reading(data, content, str(seed))
    return READ


def main():
    kind, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    roles = ROLES | {"ignored": ["note"]}
    child.limit(300, LIMIT, 4 * LIMIT)
    read_one = _in_this_process
    if kind == "parquet":
        read_one = _in_a_fork  # C++ may die
        import core.uploads.parquet  # noqa: F401 - once, and not in every fork
    ends = Counter(read_one(kind, seed, roles) for seed in range(first, last))
    # not RUSAGE_SELF: that remembers who started this process
    own = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    largest = max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) << 10
    print(json.dumps({"ends": ends, "largest": largest}))


if __name__ == "__main__":
    main()
