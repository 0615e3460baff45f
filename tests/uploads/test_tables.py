"""Tables: what becomes of their columns, what is refused and how it is named, and how much memory that takes."""

import io
import json
import subprocess
import sys
import tempfile
import tracemalloc

import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import LabelEncoder, OneHotEncoder

from core import uploads
from core.errors import DatasetTooLarge, InvalidDataset, UnsupportedDataset
from core.uploads import apart, canonical
from core.uploads.roles import Roles
from tests.uploads import making, tabular
from tests.uploads.tabular import as_csv, as_parquet, normalised

NUMBERS = {"target": "y"}


def apart_from(content, roles=None, kind=None, **limits):
    """Through the process that reads tables."""
    with tempfile.TemporaryFile() as file:
        text = json.dumps(tabular.ROLES if roles is None else roles)
        found = uploads.normalise({"file": io.BytesIO(content)}, kind, file, tabular.LIMIT, text)
        file.seek(0)
        return canonical.read(file, found.sha256), found


def table(seed=0, count=50, width=3):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(count, width)) * 10.0 ** rng.integers(-30, 30, width)
    return inputs, np.arange(count) % 4


def named(inputs, labels):
    return {f"x{number}": inputs[:, number] for number in range(inputs.shape[1])} | {"y": labels}


# The form that is kept


@pytest.mark.parametrize("seed", range(5))
def test_the_same_numbers_give_the_same_blob_however_they_were_sent(seed):
    inputs, labels = table(seed)
    columns = named(inputs, labels)
    with tempfile.TemporaryFile() as file:
        npz = {"file": io.BytesIO(making.npz(inputs=inputs, labels=labels))}
        wanted = uploads.normalise(npz, None, file, tabular.LIMIT).sha256
    assert normalised(as_csv(columns), NUMBERS)[1].sha256 == wanted
    assert normalised(as_csv(columns, quoting=1, lineterminator="\n"), NUMBERS)[1].sha256 == wanted
    assert normalised(b"\xef\xbb\xbf" + as_csv(columns), NUMBERS)[1].sha256 == wanted
    assert normalised(as_parquet(columns), NUMBERS, "parquet")[1].sha256 == wanted
    assert (
        normalised(as_parquet(columns, compression="gzip", row_group_size=7), NUMBERS, "parquet")[1].sha256
        == wanted
    )
    other = named(np.where(np.arange(150).reshape(50, 3) == 149, 0.5, inputs), labels)
    assert normalised(as_csv(other), NUMBERS)[1].sha256 != wanted


def test_targets_are_the_same_in_a_table_and_in_an_array():
    inputs, _ = table()
    targets = np.random.default_rng(1).normal(size=50)
    with tempfile.TemporaryFile() as file:
        npz = {"file": io.BytesIO(making.npz(inputs=inputs, targets=targets))}
        found = uploads.normalise(npz, None, file, tabular.LIMIT)
        file.seek(0)
        data = canonical.read(file, found.sha256)
    np.testing.assert_array_equal(data.labels, targets)
    assert (data.info.num_classes, found.summary["class_counts"]) == (0, [])
    assert found.summary["target"]["mean"] == pytest.approx(targets.mean())
    assert found.summary["target"]["deviation"] == pytest.approx(targets.std())
    assert normalised(as_csv(named(inputs, targets)), NUMBERS)[1].sha256 == found.sha256
    assert normalised(as_parquet(named(inputs, targets)), NUMBERS, "parquet")[1].sha256 == found.sha256


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_process_of_its_own_reads_the_same(kind):
    content = {"csv": as_csv, "parquet": as_parquet}[kind](tabular.columns(np.random.default_rng(0)))
    roles = tabular.ROLES | {"ignored": ["note"]}
    (here, found_here), (there, found_there) = normalised(content, roles, kind), apart_from(content, roles)
    np.testing.assert_array_equal(here.inputs, there.inputs)
    assert found_here.sha256 == found_there.sha256
    assert json.loads(json.dumps(found_here.summary)) == found_there.summary


@pytest.mark.parametrize("make", [as_csv, as_parquet])
def test_columns_become_what_scikit_learn_makes_of_them(make):
    rng = np.random.default_rng(0)
    given = tabular.columns(rng, 300)
    given["length"] = [None if rng.random() < 0.2 else float(one) for one in given["length"]]
    roles = tabular.ROLES | {"ignored": ["note"]}
    data, found = normalised(make(given), roles, "csv" if make is as_csv else "parquet")
    length = SimpleImputer().fit_transform(np.array(given["length"], float)[:, None])
    town = OneHotEncoder(sparse_output=False).fit_transform(np.array(given["town"])[:, None])
    np.testing.assert_allclose(
        data.inputs, np.hstack([length, np.array(given["count"])[:, None], town]), rtol=1e-14
    )
    encoder = LabelEncoder().fit(given["species"])
    np.testing.assert_array_equal(data.labels, encoder.transform(given["species"]))
    told = found.summary["table"]
    assert told["classes"] == list(encoder.classes_)
    by_name = {column["name"]: column for column in told["columns"]}
    known = [one for one in given["length"] if one is not None]
    assert by_name["length"]["missing"] == 300 - len(known)
    assert by_name["length"]["mean"] == pytest.approx(np.mean(known))
    assert by_name["length"]["deviation"] == pytest.approx(np.std(known))
    assert by_name["town"]["categories"] == [
        {"value": value, "rows": given["town"].count(value)} for value in sorted(set(given["town"]))
    ]
    assert by_name["note"] == {"name": "note", "role": "ignored", "type": None, "missing": None}
    assert len(told["rows"]) == 5
    assert told["rows"][0][4] == given["species"][0]


def test_a_missing_category_is_the_shares_of_the_others():
    data, _ = normalised(b"t,y\na,0\na,1\nb,0\n,1\n", {"target": "y", "categorical": ["t"], "missing": "mean"})
    np.testing.assert_allclose(data.inputs, [[1, 0], [1, 0], [0, 1], [2 / 3, 1 / 3]])


@pytest.mark.parametrize(
    ("values", "task", "labels", "classes"),
    [
        (["0", "2", "1"], None, [0, 2, 1], None),
        (["1", "3", "1"], None, [1, 3, 1], None),  # as an array of the same numbers has them
        (["-1", "1", "-1"], None, [0, 1, 0], ["-1", "1"]),
        (["2001", "1999", "2001"], None, [1, 0, 1], ["1999", "2001"]),
        (["b", "a", "b"], None, [1, 0, 1], ["a", "b"]),
        (["1", "a", "1.0"], None, [0, 2, 1], ["1", "1.0", "a"]),
        (["1.0", "2.00", "1"], None, [1, 2, 1], None),
        (["0.5", "1.5", "0.5"], None, [0.5, 1.5, 0.5], None),
        (["0.5", "1.5", "0.5"], "classification", [0, 1, 0], ["0.5", "1.5"]),
        (["1", "3", "1"], "regression", [1.0, 3.0, 1.0], None),
    ],
)
def test_what_a_target_is(values, task, labels, classes):
    content = "\n".join(["x,y", *(f"{number},{value}" for number, value in enumerate(values))])
    data, found = normalised(content.encode(), {"target": "y", "task": task})
    np.testing.assert_array_equal(data.labels, labels)
    assert data.labels.dtype == (np.float64 if isinstance(labels[0], float) else np.int32)
    assert found.summary["table"]["classes"] == classes


def test_features_are_in_the_tables_order_and_all_but_those_ignored():
    content = b"a,b,c,y\n1,2,3,0\n4,5,6,1\n"
    for roles, expected in (
        ({}, [[1, 2, 3], [4, 5, 6]]),
        ({"features": ["c", "a"]}, [[1, 3], [4, 6]]),
        ({"ignored": ["b"]}, [[1, 3], [4, 6]]),
        ({"target": "a"}, [[2, 3, 0], [5, 6, 1]]),
    ):
        np.testing.assert_array_equal(normalised(content, {"target": "y"} | roles)[0].inputs, expected)


# What is refused

REFUSED = {
    "nothing": (b"", {}, "file: is empty"),
    "names only": (b"x,y\n", {}, "names columns and has no rows"),
    "one column": (b"y\n0\n1\n", {}, "has 1 columns"),
    "semicolons": (b"x;y\n0;1\n", {}, "separated by commas"),
    "ragged, short": (b"x,y\n1,0\n2\n", {}, r"row 2 \(line 3\) has 1 values, and the first row names 2"),
    "ragged, long": (b"x,y\n1,0\n2,1,7\n", {}, r"row 2 \(line 3\) has 3 values"),
    "ragged after a quoted break": (b'x,t,y\n1,"a\nb",0\n2,1\n', {"ignored": ["t"]}, r"row 2 \(line 4\) has 2 values"),
    "text in numbers": (b"x,y\n1,0\ntwo,1\n", {}, r"row 2 \(line 3\), column 'x': 'two' is not a number"),
    "underscores": (b"x,y\n1,0\n1_0,1\n", {}, r"row 2 .*'1_0' is not a number"),
    "other digits": ("x,y\n1,0\n١,1\n".encode(), {}, r"row 2 .* is not a number"),
    "missing": (b"x,y\n1,0\n,1\n", {}, r"row 2 \(line 3\), column 'x': is missing; .*\"missing\": \"mean\""),
    "NaN": (b"x,y\n1,0\nNaN,1\n", {}, r"row 2 \(line 3\), column 'x': is missing"),
    "missing category": (b"x,y\na,0\n,1\n", {"categorical": ["x"]}, r"row 2 \(line 3\), column 'x': is missing"),
    "missing target": (b"x,y\n1,0\n2,\n", {"missing": "mean"}, r"row 2 \(line 3\), column 'y': is missing; the target"),
    "infinity": (b"x,y\n1,0\ninf,1\n", {}, r"row 2 \(line 3\), column 'x': inf is an infinity"),
    "beyond float32": (b"x,y\n1,0\n1e39,1\n", {}, r"row 2 \(line 3\), column 'x': 1e\+39"),
    "one class": (b"x,y\n1,7\n2,7\n", {}, "column 'y' is '7' in every row"),
    "one word": (b"x,y\n1,cat\n2,cat\n", {}, "column 'y' is 'cat' in every row"),
    "one number": (b"x,y\n1,.5\n2,.5\n", {}, "column 'y' is '0.5' in every row"),
    "words to fit": (b"x,y\n1,0\n2,cat\n", {"task": "regression"}, r"row 2 \(line 3\), column 'y': 'cat' is not a"),
    "many classes": (
        b"x,y\n" + b"".join(b"%d,%d\n" % (n, 10**6 + n) for n in range(1001)),
        {},
        "more than 1000 different values.*regression",
    ),
    "many categories": (
        b"x,y\n" + b"".join(b"c%d,%d\n" % (n, n % 2) for n in range(257)),
        {"categorical": ["x"]},
        r"row 257 \(line 258\), column 'x': is the 257th different value",
    ),
    "empty column": (b"x,z,y\n1,,0\n2,,1\n", {"missing": "mean"}, "column 'z' has no values"),
    "the same name": (b"x,x,y\n1,2,0\n", {}, "columns 1 and 2 are both named 'x'"),
    "no name": (b"x,,y\n1,2,0\n", {}, "column 2 is named ''"),
    "a name for terminals": (b"x,\x1b[31m,y\n1,2,0\n", {}, r"column 2 is named '\\x1b\[31m'"),
    "no such target": (b"x,z\n1,2\n", {}, "columns.target: there is no column 'y'; there are 'x', 'z'"),
    "no such column": (b"x,y\n1,2\n", {"ignored": ["w"]}, "columns.ignored: there is no column 'w'"),
    "target ignored": (b"x,y\n1,2\n", {"ignored": ["y"]}, "columns.target: 'y' is named as another role"),
    "target a feature": (b"x,y\n1,2\n", {"features": ["x", "y"]}, "columns.target: 'y' is named as another role"),
    "feature ignored": (b"x,z,y\n1,2,3\n", {"features": ["x"], "ignored": ["x"]}, "columns.ignored: 'x' is among"),
    "no features": (b"x,y\n1,2\n", {"ignored": ["x"]}, "no features are left"),
    "twice": (b"x,y\n1,2\n", {"ignored": ["x", "x"]}, "columns.ignored: a column is named twice"),
    "categorical target": (b"x,y\n1,2\n", {"categorical": ["y"]}, "columns.categorical: 'y' is no feature"),
    "Latin 1": ("x,y\n1,0\n2,é\n".encode("latin-1"), {}, "line 3 is not UTF-8"),
    "UTF-16": ("x,y\n1,0\n".encode("utf-16"), {}, "line 1"),
    "zero byte": (b"x,y\n1,0\n2,\x001\n", {}, "line 3 holds a zero byte"),
    "open quote": (b'x,y\n1,0\n"2,1\n', {}, r"line 3 is not CSV"),
    "quote inside": (b'x,y\n1,0\n"2"3,1\n', {}, "line 3 is not CSV"),
    "long value": (b"x,y\n" + b"1" * 5000 + b",0\n", {}, "line 2 is not CSV .*field larger than"),
    "a million digits": (b"x,y\n" + b"9" * 4000 + b",0\n", {}, "beyond float32"),
    "category for terminals": (b"x,y\n\x1b[0m,0\n", {"categorical": ["x"]}, r"row 1 .* is no name of a category"),
    "class for terminals": (b"x,y\n1,\x1b[0m\n", {}, r"row 1 .* is no name of a class"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_refused_and_named(name):
    content, roles, says = REFUSED[name]
    with pytest.raises(InvalidDataset, match=says) as caught:
        normalised(content, {"target": "y"} | roles)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ("{", "columns: Invalid JSON"),
        ("[]", "columns: "),
        ("{}", "columns.target: Field required"),
        ('{"target": ""}', "columns.target: "),
        ('{"target": 7}', "columns.target: "),
        ('{"target": "y", "tsak": "regression"}', "columns.tsak: Extra"),
        ('{"target": "y", "task": "clustering"}', "columns.task: "),
        ('{"target": "y", "missing": "drop"}', "columns.missing: "),
        ('{"target": "y", "features": []}', "columns.features: "),
        ('{"target": "y", "ignored": ["a", 7]}', "columns.ignored.1: "),
        (None, "columns: a table needs them"),
    ],
)
def test_roles_that_are_none_are_named(columns, says):
    with pytest.raises(InvalidDataset, match=says) as caught, tempfile.TemporaryFile() as file:
        uploads.normalise({"file": io.BytesIO(b"x,y\n1,0\n")}, "csv", file, tabular.LIMIT, columns)
    assert str(caught.value).isprintable()


def test_kinds_are_told_by_how_files_begin():
    sound, text = making.npz(**making.arrays(np.random.default_rng(0))), b"x,y\n1,0\n2,1\n"
    for content, kind, error in (
        (sound, "csv", UnsupportedDataset),
        (sound, "parquet", UnsupportedDataset),
        (text, "npz", UnsupportedDataset),
        (text, "parquet", UnsupportedDataset),
        (text, "idx", InvalidDataset),
        (sound, None, InvalidDataset),  # which has no columns
    ):
        with pytest.raises(error), tempfile.TemporaryFile() as file:
            uploads.normalise({"file": io.BytesIO(content)}, kind, file, tabular.LIMIT, json.dumps(NUMBERS))
    assert apart_from(text, NUMBERS)[1].sha256 == apart_from(text, NUMBERS, "csv")[1].sha256


def parquet_of(**arrays):
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.table(arrays), file)
    return file.getvalue()


def strange_parquet():
    import datetime
    import decimal

    import pyarrow as pa

    y = [0, 1]
    return {
        "dates": (parquet_of(x=[datetime.date(2020, 1, 1)] * 2, y=y), "column 'x' is of type date32"),
        "times": (parquet_of(x=pa.array([1, 2], pa.timestamp("s")), y=y), "column 'x' is of type timestamp"),
        "decimals": (parquet_of(x=[decimal.Decimal("1.5")] * 2, y=y), "column 'x' is of type decimal"),
        "bytes": (parquet_of(x=[b"a", b"b"], y=y), "column 'x' is of type binary"),
        "lists": (parquet_of(x=[[1], [2]], y=y), "column 'x' is of type list"),
        "structs": (parquet_of(x=[{"a": 1, "b": 2}] * 2, y=y), "columns within columns"),
        "text": (parquet_of(x=["1", "two"], y=y), "row 2, column 'x': 'two' is not a number"),
        "missing": (parquet_of(x=[1.0, None], y=y), "row 2, column 'x': is missing"),
        "NaN": (parquet_of(x=[1.0, np.nan], y=y), "row 2, column 'x': is missing"),
        "nothing but missing": (parquet_of(x=[None, None], y=y), "row 1, column 'x': is missing"),
        "infinity": (parquet_of(x=[1.0, np.inf], y=y), "row 2, column 'x': inf"),
        "one class": (parquet_of(x=[1.0, 2.0], y=[3, 3]), "column 'y' is '3' in every row"),
        "no rows": (parquet_of(x=pa.array([], pa.float64()), y=pa.array([], pa.int64())), "has no rows"),
        "half": (parquet_of(x=[1.0, 2.0], y=y)[:-20], "file: "),
        "an end only": (b"PAR1" + b"PAR1", "too short"),
        "footer of 4 GiB": (b"PAR1" + bytes(20) + b"\xff\xff\xff\xffPAR1", "footer of 4294967295 bytes"),
        "encrypted": (parquet_of(x=[1.0, 2.0], y=y)[:-4] + b"PARE", "encrypted"),
        "zeros": (b"PAR1" + bytes(60) + b"\x20\0\0\0PAR1", "not a sound Parquet file"),
    }


@pytest.mark.parametrize("name", strange_parquet())
def test_strange_parquet_files_are_refused_and_named(name):
    content, says = strange_parquet()[name]
    with pytest.raises(InvalidDataset, match=says) as caught:
        normalised(content, NUMBERS, "parquet")
    assert str(caught.value).isprintable()


def test_columns_that_are_ignored_may_be_of_any_type():
    import datetime

    content = parquet_of(d=[datetime.date(2020, 1, 1)] * 2, x=[True, False], y=["a", "b"])
    data, found = normalised(content, {"target": "y", "ignored": ["d"]}, "parquet")
    np.testing.assert_array_equal(data.inputs, [[1], [0]])
    assert found.summary["table"]["rows"] == [["", "1.0", "a"], ["", "0.0", "b"]]


def test_a_small_parquet_file_of_many_equal_rows_is_a_bomb():
    import pyarrow as pa

    count = 3_000_000
    content = parquet_of(x=pa.array(np.zeros(count)), y=pa.array(np.arange(count) // (count // 2), pa.int8()))
    assert len(content) < 1 << 17
    with pytest.raises(DatasetTooLarge, match="more than 200 times as much"):
        normalised(content, NUMBERS, "parquet")


def test_limits_are_kept_to():
    content = as_csv(named(*table(count=1000)))
    with pytest.raises(DatasetTooLarge, match="makes .* bytes of numbers, more than 20000"):
        normalised(content, NUMBERS, max_bytes=20_000)
    wide = b"t,y\n" + b"".join(b"c%d,%d\n" % (number % 200, number % 2) for number in range(1000))
    with pytest.raises(DatasetTooLarge, match="declare 1608000 bytes, more than 100000"):
        normalised(wide, {"target": "y", "categorical": ["t"]}, max_bytes=100_000)


# Memory and processes

EVIL = {
    "a line without an end": lambda: b"x,y\n" + b"1" * (64 << 20),
    "a row without an end": lambda: b"x,y\n" + b'"a\n",' * (12 << 20),
    "commas": lambda: b"x,y\n" + b"," * (4 << 20) + b"\n",
    "names": lambda: b",".join(b"n%d" % number for number in range(400_000)) + b"\n",
    "one name": lambda: b"x" * (64 << 20),
}


@pytest.mark.parametrize("name", EVIL)
def test_refusals_take_little_memory(name):
    content = EVIL[name]()
    tracemalloc.start()
    try:
        with pytest.raises(InvalidDataset):
            normalised(content, NUMBERS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 96 << 20


def test_a_long_table_is_read_in_pieces():
    row = b"0.123456789,0.987654321,0\n0.5,0.25,1\n"
    content = b"a,b,y\n" + row * 60_000
    tracemalloc.start()
    try:
        with tempfile.TemporaryFile() as file:
            from core.uploads import child

            child.normalised(io.BytesIO(content), "csv", Roles(target="y"), file, tabular.LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 48 << 20


def test_a_reader_that_takes_too_much_is_ended_and_told_of():
    content = as_csv(named(*table(count=20_000)))
    with tempfile.TemporaryFile() as file, pytest.raises(DatasetTooLarge, match="takes more than"):
        apart.normalise(io.BytesIO(content), "csv", Roles(target="y"), file, tabular.LIMIT, seconds=0)
    with tempfile.TemporaryFile() as file, pytest.raises(DatasetTooLarge, match="bytes to read"):
        apart.normalise(io.BytesIO(as_parquet(named(*table(count=200_000)))), "parquet", Roles(target="y"), file,
                        tabular.LIMIT, memory_bytes=150 << 20)  # fmt: skip


def test_a_reader_that_dies_takes_nothing_with_it(monkeypatch):
    monkeypatch.setattr(apart, "_PROGRAM", "tests.uploads.dying")
    with tempfile.TemporaryFile() as file, pytest.raises(InvalidDataset, match="ended by SIGSEGV"):
        apart.normalise(io.BytesIO(b"x,y\n"), "csv", Roles(target="y"), file, tabular.LIMIT)


def fuzzed(kind, first, last):
    """What a process of its own says of these mutants; that it ends by itself is the test."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.uploads.tabular", kind, str(first), str(last)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr[-3000:])
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["csv", pytest.param("parquet", marks=pytest.mark.slow)])
def test_hundreds_of_tables_changed_at_random_are_refused_or_read_rightly(kind):
    found = fuzzed(kind, 0, 300)
    assert set(found["ends"]) == {"read", "refused"}, found
    assert min(found["ends"].values()) > 15
    assert found["largest"] < 512 << 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("part", range(4))
def test_thousands_of_tables_changed_at_random(kind, part):
    found = fuzzed(kind, 1000 + 1000 * part, 2000 + 1000 * part)
    assert set(found["ends"]) == {"read", "refused"}, found
    assert found["largest"] < 512 << 20
