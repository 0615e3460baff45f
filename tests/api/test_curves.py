"""Curves as files: the same numbers in every format, and no more memory than a table takes."""

import csv
import io
import math
import re
import struct
import tracemalloc
from dataclasses import replace
from uuid import UUID, uuid4

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from api.schemas.records import CurvesRead
from core.records import Losses
from core.results import curves as files
from core.results.curves import FORMATS, MEDIA
from core.store import curves, jobs, leases
from core.store.curves import Column
from core.store.models import Job, State
from tests.api.problems import assert_problem
from tests.builders import claim, document, record
from tests.store.test_leases import write

FIXED = [
    "iteration",
    "outer_loss",
    "train_loss",
    "valid_loss",
    "test_loss",
    "hypergradient_norm",
    "seconds",
    "exact",
    "engine",
    "mode",
    "mismatched_bits",
    "stored_bits_per_param_step",
    "bound_bits_per_param_step",
    "attempt",
]
DIAGNOSED = {"diagnostics": {"every": 2, "seeds": 3, "adjoint_growth": True}, "meta.safeguard": {"every": 1}}
MEASURED = [
    "safeguard.outer_loss",
    "safeguard.stepped_back",
    "safeguard.scale",
    "adjoint_growth.growth_per_step",
    "seeds.norm",
    "seeds.signal_to_noise",
    "seeds.cosine",
]


@pytest.fixture
def job(client, sessions):
    """A running job of three meta-iterations; in the second training diverged, and some numbers are none."""
    job = client.post("/v1/jobs", json=document(DIAGNOSED)).json()
    lease = claim(sessions, UUID(job["id"]))
    looked = {"safeguard": {"outer_loss": None, "stepped_back": True, "scale": 0.5}}
    growth = {"steps": [0, 10], "norms": [1.0, 2.0], "growth_per_step": 0.1 + 0.2}
    seeds = {"seeds": 3, "norm": 1e-300, "leaf_norms": {}, "signal_to_noise": None, "cosine": -1.0}
    unproven = {"exact": False, "engine": "", "mode": ""}
    for one in (
        replace(record(0, outer=1 / 3), diagnostics={"adjoint_growth": growth, "seeds": seeds, "seconds": 1.0}),
        replace(record(1), losses=Losses(*[math.nan] * 4), certificate=unproven, diagnostics=looked),
        replace(
            record(2, outer=math.inf, mismatched_bits=1 << 40), diagnostics={"seeds": {"error": {"code": "x"}}}
        ),
    ):
        write(sessions, leases.save_iteration, lease, one)
    return job


def download(client, job, format, **options):
    return client.get(f"/v1/jobs/{job['id']}/curves", params={"format": format}, **options)


def test_json_is_by_column(client, job):
    answer = client.get(f"/v1/jobs/{job['id']}/curves")
    assert answer.headers["Content-Type"] == "application/json"
    found = answer.json()
    CurvesRead.model_validate(found)
    assert {name: found[name] for name in ("schema", "job_id", "state", "rows")} == {
        "schema": "retrograd.curves.v1",
        "job_id": job["id"],
        "state": "running",
        "rows": 3,
    }
    columns = found["columns"]
    assert list(columns) == [*FIXED, *MEASURED]
    assert columns["iteration"] == [0, 1, 2]
    assert columns["outer_loss"] == [1 / 3, None, None]
    assert columns["exact"] == [True, False, True]
    assert columns["engine"] == ["reversible", "", "reversible"]
    assert columns["mismatched_bits"] == [0, None, 1 << 40]
    assert columns["stored_bits_per_param_step"] == [1.5, None, 1.5]
    assert columns["safeguard.stepped_back"] == [None, True, None]
    assert columns["adjoint_growth.growth_per_step"] == [0.1 + 0.2, None, None]
    assert columns["seeds.norm"] == [1e-300, None, None]
    listed = client.get(f"/v1/jobs/{job['id']}/iterations").json()["data"]
    for name in (
        "outer_loss",
        "train_loss",
        "valid_loss",
        "test_loss",
        "hypergradient_norm",
        "seconds",
        "attempt",
    ):
        assert columns[name] == [row[name] for row in listed]


def test_csv_has_a_line_for_each(client, job):
    answer = download(client, job, "csv")
    assert answer.headers["Content-Type"] == MEDIA["csv"]
    names, *rows = csv.reader(io.StringIO(answer.text, newline=""))
    assert names == [*FIXED, *MEASURED]
    found = [dict(zip(names, row, strict=True)) for row in rows]
    assert [row["outer_loss"] for row in found] == [repr(1 / 3), "nan", "inf"]
    assert [row["exact"] for row in found] == ["true", "false", "true"]
    assert [row["mismatched_bits"] for row in found] == ["0", "", str(1 << 40)]
    assert [row["seeds.norm"] for row in found] == ["1e-300", "", ""]
    table = pyarrow.csv.read_csv(io.BytesIO(answer.content))
    assert (table.num_rows, table.column_names) == (3, names)


def test_parquet_has_types_and_says_which_job_it_is(client, job):
    answer = download(client, job, "parquet")
    assert answer.headers["Content-Type"] == "application/vnd.apache.parquet"
    table = pyarrow.parquet.read_table(io.BytesIO(answer.content))
    assert table.column_names == [*FIXED, *MEASURED]
    types = {name: str(table.schema.field(name).type) for name in ("iteration", "outer_loss", "exact", "engine")}
    assert types == {"iteration": "int64", "outer_loss": "double", "exact": "bool", "engine": "string"}
    outer = table["outer_loss"].to_pylist()
    assert outer[0] == 1 / 3
    assert math.isnan(outer[1])  # known, and not a number
    assert outer[2] == math.inf
    assert table["seeds.norm"].to_pylist() == [1e-300, None, None]  # and this is not known
    about = {key.decode(): value.decode() for key, value in table.schema.metadata.items() if b"retrograd" in key}
    assert about == {
        "retrograd.schema": "retrograd.curves.v1",
        "retrograd.job_id": job["id"],
        "retrograd.spec_sha256": job["spec_sha256"],
    }


@pytest.mark.parametrize("format", FORMATS)
def test_a_download_has_a_name_and_a_version(client, sessions, job, format):
    answer = download(client, job, format)
    assert answer.headers["Content-Disposition"] == f'attachment; filename="retrograd-{job["id"]}-curves.{format}"'
    etag = answer.headers["ETag"]
    assert etag == client.get(f"/v1/jobs/{job['id']}").headers["ETag"]
    assert answer.headers["Retry-After"] == "2"
    known = download(client, job, format, headers={"If-None-Match": etag})
    assert (known.status_code, known.content, known.headers["ETag"]) == (304, b"", etag)
    client.post(f"/v1/jobs/{job['id']}/cancel")
    assert download(client, job, format, headers={"If-None-Match": etag}).status_code == 200


@pytest.mark.parametrize("format", FORMATS)
def test_before_the_first_meta_iteration_there_are_no_rows(client, format):
    job = client.post("/v1/jobs", json=document()).json()
    answer = download(client, job, format)
    assert answer.status_code == 200
    if format == "json":
        assert answer.json()["rows"] == 0
        assert answer.json()["columns"] == {name: [] for name in FIXED}
    elif format == "csv":
        assert answer.text == ",".join(FIXED) + "\r\n"
    else:
        assert pyarrow.parquet.read_table(io.BytesIO(answer.content)).num_rows == 0


def test_what_cannot_be_had_is_said(client, stranger, job):
    assert_problem(download(client, {"id": uuid4()}, "csv"), 404, "unknown_job")
    assert_problem(download(stranger, job, "csv"), 404, "unknown_job")
    assert_problem(download(stranger, job, "csv", headers={"If-None-Match": "*"}), 404, "unknown_job")
    problem = assert_problem(download(client, job, "xlsx"), 422, "invalid_parameter")
    assert problem["errors"] == [
        {"loc": ["query", "format"], "msg": "must be 'json', 'csv' or 'parquet', not 'xlsx'"}
    ]
    del client.headers["Authorization"]
    assert_problem(download(client, job, "csv"), 401, "unauthorized")


# every number comes back as it was, in the formats that have words for all of them

NUMBERS = st.floats(width=64) | st.none()
WHOLE = st.integers(-(2**63), 2**63 - 1) | st.none()


def column(name, kind, found, absent):
    known = np.array([one is not None for one in found], bool)
    return Column(name, kind, np.array([absent if one is None else one for one in found]), known)


@given(st.lists(st.tuples(NUMBERS, WHOLE, st.booleans() | st.none()), max_size=40))
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_numbers_come_back_as_they_were(rows):
    numbers, whole, truths = (list(values) for values in zip(*rows, strict=True)) if rows else ([], [], [])
    columns = [
        column("number", "number", numbers, math.nan)._replace(
            values=np.array([math.nan if one is None else one for one in numbers], np.float64)
        ),
        column("whole", "integer", whole, 0)._replace(values=np.array([one or 0 for one in whole], np.int64)),
        column("truth", "boolean", truths, False)._replace(values=np.array([bool(one) for one in truths], bool)),
    ]
    of = Job(id=uuid4(), state=State.RUNNING, spec_sha256="", best_iteration=None)
    table = pyarrow.parquet.read_table(io.BytesIO(b"".join(files.as_parquet(of, columns))))
    written = b"".join(files.as_csv(columns)).decode()
    lines = list(csv.DictReader(io.StringIO(written, newline="")))
    assert list(map(bits, table["number"].to_pylist())) == list(map(bits, numbers))
    assert [bits(float(line["number"]) if line["number"] else None) for line in lines] == list(map(bits, numbers))
    assert table["whole"].to_pylist() == whole
    assert [int(line["whole"]) if line["whole"] else None for line in lines] == whole
    assert table["truth"].to_pylist() == truths
    assert [{"true": True, "false": False, "": None}[line["truth"]] for line in lines] == truths


def bits(number):
    """One of all that are not numbers for all of them: which of them it is says nothing."""
    return None if number is None else struct.pack("<d", math.nan if math.isnan(number) else number)


# large jobs

ROWS = 12_000  # more than a specification may ask for
SAME = "train_loss, valid_loss, test_loss, hypergradient_norm, seconds, attempt, lease_epoch"
FILL = text(
    f"INSERT INTO iterations (job_id, iteration, outer_loss, certificate, {SAME}) "
    "SELECT job_id, n, outer_loss / (n + 1), certificate || jsonb_build_object('versions', repeat('x', 400)), "
    f"{SAME} FROM iterations, generate_series(1, :rows - 1) n WHERE iteration = 0"
)


@pytest.fixture
def large(client, sessions):
    job = client.post("/v1/jobs", json=document()).json()
    write(sessions, leases.save_iteration, claim(sessions, UUID(job["id"])), record(0))
    write(sessions, lambda session: session.execute(FILL, {"rows": ROWS}))
    return job


def test_a_large_job_is_read_whole_and_takes_no_more_memory_than_its_numbers(client, sessions, project, large):
    for format in FORMATS:
        content = download(client, large, format).content
        if format == "json":
            found = CurvesRead.model_validate_json(content)
            assert found.rows == len(found.columns.outer_loss) == ROWS
            expected = found.columns.outer_loss
        elif format == "csv":
            lines = csv.DictReader(io.StringIO(content.decode(), newline=""))
            assert [float(line["outer_loss"]) for line in lines] == expected
        else:
            assert pyarrow.parquet.read_table(io.BytesIO(content))["outer_loss"].to_pylist() == expected
    assert expected == [1.0 / (n + 1) for n in range(ROWS)]
    with sessions() as session:
        job = jobs.get(session, project, UUID(large["id"]))
        assert peak(lambda: consume(files.as_csv(curves.read(session, job)))) < 800 * ROWS
        assert peak(lambda: [dict(row.certificate) for row in all_of(session, job)]) > 1600 * ROWS  # the control


def peak(work):
    """Bytes that Python and NumPy held at most meanwhile."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def consume(pieces):
    assert max(map(len, pieces)) < 1 << 20


def all_of(session, job):
    from core.store import iterations

    return iterations.page(session, job.id, after=None, limit=ROWS)


def test_pieces_of_text_are_no_words_across_rows(client, job):
    """A name with a comma or a quote would need quoting; the writer's own, checked once."""
    odd = [Column('a,"b"', "string", np.array(['x\r\n"y",'], object), np.array([True]))]
    assert b"".join(files.as_csv(odd)) == b'"a,""b"""\r\n"x\r\n""y"","\r\n'
    assert re.fullmatch(r"[a-z_.]+", "".join(curves.MEASURES))
