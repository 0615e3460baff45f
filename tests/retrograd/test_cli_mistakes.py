"""What is wrong with a job is said where it was written: line, column, caret, field and remedy."""

import json
import re

import pytest
from rich.cells import cell_len

from retrograd.cli import run
from retrograd.cli.mistakes import Mistake, Written
from retrograd.cli.positions import Span, line_and_column, locate
from tests.builders import SMALL, document

PLACED = re.compile(r"^(?P<file>[\w.]+):(?P<line>\d+):(?P<column>\d+): (?P<said>.*)$", re.MULTILINE)


@pytest.fixture
def submit(url, key, alone, monkeypatch):
    """`retrograd submit` of a text as job.json: status, and what is said on standard error."""
    monkeypatch.setenv("RETROGRAD_URL", url)
    monkeypatch.setenv("RETROGRAD_API_KEY", key)
    return alone


@pytest.fixture
def alone(monkeypatch, tmp_path, capsys):
    """The same where there is no server."""
    monkeypatch.setenv("RETROGRAD_URL", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)

    def submitted(text, *more):
        if text is not None:
            (tmp_path / "job.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        status = run(["submit", *(["job.json"] if text is not None else []), *more])
        said = capsys.readouterr()
        assert status == 0 or said.out == ""
        return status, said.err

    return submitted


def written(changes=None, **style):
    return json.dumps(document(changes), **({"indent": 2} | style))


def blamed(text, said):
    """For each mistake: what stands in the text where it points, what carets are below, and what is said."""
    lines, shown = text.splitlines(), said.splitlines()
    for found in PLACED.finditer(said):
        line, column = int(found["line"]), int(found["column"])
        at = shown.index(found[0])
        assert shown[at + 1].endswith(lines[line - 1])  # the line itself
        caret = shown[at + 2]
        assert caret.index("^") - shown[at + 1].index(lines[line - 1]) == column - 1
        number = caret.count("^")
        yield lines[line - 1][column - 1 : column - 1 + number], found["said"]


MISTAKES = [
    ({"training.num_steps": 0}, "0", "training.num_steps: must be greater than 0, not 0"),
    ({"training.num_stepz": 5}, '"num_stepz"', "training.num_stepz: unknown field; did you mean 'num_steps'?"),
    ({"problme": {}}, '"problme"', "problme: unknown field; did you mean 'problem'?"),
    (
        {"problem.kind": "classifer"},
        '"classifer"',
        "problem.kind: no kind 'classifer' here; did you mean 'classifier'? must be one of:",
    ),
    ({"problem.dataset.split.train": ...}, "{", "problem.dataset.split.train: required; add it"),
    ({"training": ...}, "{", "training: required; add it"),
    ({"training.batch_size": 201}, "201", "training.batch_size 201 exceeds problem.dataset.split.train 200"),
    ({"hyperparameters.step_size.per": ["step", "grup"]}, '"grup"', "hyperparameters.step_size.per.1: must be"),
    ({"problem.dataset.name": "nothing"}, '"nothing"', "problem.dataset.name: no data set 'nothing'; known:"),
    ({"webhook": {"url": "ftp://x"}}, '"ftp://x"', "webhook.url: "),
]


def test_a_mistake_is_shown_with_its_line(submit):
    for changes, piece, says in MISTAKES:
        text = written(changes)
        status, said = submit(text)
        assert status == 2
        assert said.startswith("error: job.json is refused: one mistake\n")
        ((found, message),) = blamed(text, said)
        assert found == piece
        assert message.startswith(says)


def test_all_mistakes_are_shown_at_once(submit):
    text = written({"training.num_steps": 0, "meta.num_iterations": "many", "nmae": "x"})
    status, said = submit(text)
    assert status == 2
    assert said.startswith("error: job.json is refused: 3 mistakes\n")
    assert {piece for piece, _ in blamed(text, said)} == {"0", '"many"', '"nmae"'}


def leaves(value, path=()):
    if not isinstance(value, dict):
        yield ".".join(path)
        return
    for name, inner in value.items():
        yield from leaves(inner, (*path, name))


@pytest.mark.parametrize(
    "style", [{"indent": 2}, {"indent": None}, {"indent": "\t", "separators": (" , ", " : ")}]
)
def test_wherever_a_value_is_wrong_it_is_blamed(submit, style):
    for field in set(leaves(SMALL)) - {"name"}:
        text = written({field: [["not", "this"]]}, **style)
        status, said = submit(text)
        assert status == 2
        there = locate(text).follow(tuple(field.split(".")))[0].span
        places = {(int(found["line"]), int(found["column"])) for found in PLACED.finditer(said)}
        assert places & {line_and_column(text, offset) for offset in range(there.start, there.stop)}, field


def test_windows_files_and_byte_order_marks_change_no_place(submit):
    text = written({"training.num_steps": 0})
    plain = submit(text)
    assert submit(text.replace("\n", "\r\n")) == plain
    assert submit(b"\xef\xbb\xbf" + text.encode()) == plain


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("", "1:1", "a value is missing here"),
        ("{\n  'name': 1\n}", "2:3", "a name in double quotes is missing here"),
        ('{"name"; "x"}', "1:8", "a colon is missing after the name"),
        ('{\n  "name": "x"\n\n\n', "2:14", "a comma is missing before this, or something is not closed"),
        ('{"name": "x"}\n{}', "2:1", "the job ended before this"),
        ('{"name": x}', "1:10", "text stands in double quotes"),
        ("[1]", "1:1", "is not a job, which is an object in braces"),
        ('{"name": "ü",\n "meta": {"step_size": NaN}}', "2:24", "meta.step_size: NaN is no finite number"),
        ('{"meta": {"step_size": -1e999}}', "1:24", "meta.step_size: -1e999 is no finite number"),
        ('{"name": "\\ud800"}', "1:10", "name: holds half of a character"),
        ('{"name": "a",\n "meta": {},\n "name": "b"}', "3:2", "name: is there more than once; keep one of them"),
        (b'{"name": "\xff"}', "1:11", "is not UTF-8; save it as UTF-8"),
    ],
)  # fmt: skip
def test_what_is_no_json_is_shown_where_it_ceases_to_be(alone, text, place, says):
    status, said = alone(text)
    assert status == 2
    assert f"job.json:{place}: " in said
    assert says in said
    assert "^" in said


@pytest.mark.parametrize("text", ["[" * 100_000, '{"seed": ' + "9" * 10_000 + "}"])
def test_what_python_itself_will_not_read_is_refused(alone, text):
    status, said = alone(text)
    assert status == 2
    assert "job.json: cannot be read: " in said


def test_standard_input_is_called_so(submit, monkeypatch):
    text = written({"training.num_steps": 0})

    class Stdin:
        buffer = type("Buffer", (), {"read": staticmethod(text.encode)})

    monkeypatch.setattr("sys.stdin", Stdin)
    status, said = submit(None, "-")
    assert status == 2
    assert re.search(r"^stdin:\d+:18: training.num_steps", said, re.MULTILINE)


MISTYPED = [
    ("training.num_steps=0", "0", "training.num_steps: must be greater than 0, not 0"),
    ("training.num_steps=ten", "ten", "training.num_steps: must be a valid integer, not 'ten'"),
    ("trainin.num_steps=5", "trainin", "trainin: unknown field; did you mean 'training'?"),
    ("training.nm_steps=5", "nm_steps", "training.nm_steps: unknown field; did you mean 'num_steps'?"),
    ('problem.dataset.split={"train": 5, "vald": 5}', '"vald"', "problem.dataset.split.vald: unknown field"),
    ("training.batch_size=9999", "9999", "training.batch_size 9999 exceeds problem.dataset.split.train"),
    ("meta.step_size=NaN", "NaN", "meta.step_size: NaN is no finite number"),
    ('meta={"num_iterations": 1, "num_iterations": 2}', '"num_iterations"', "meta.num_iterations: is there more"),
]


@pytest.mark.parametrize("base", ["file", "preset"])
def test_a_mistake_of_a_setting_is_named_there(submit, base):
    for setting, piece, says in MISTYPED:
        text, more = (written(), []) if base == "file" else (None, ["--preset", "digits-schedules"])
        status, said = submit(text, *more, "-s", "name=nan", "-s", setting)
        assert status == 2
        lines = said.splitlines()
        at = next(number for number, line in enumerate(lines) if line.startswith(f"-s: {says}"))
        assert lines[at + 1] == f"  -s │ {setting}"
        caret = lines[at + 2]
        start = caret.index("^") - len("  -s │ ")
        assert setting[start : start + caret.count("^")] == piece


def test_the_file_is_blamed_for_what_settings_leave(submit):
    text = written({"training.num_steps": 0, "meta.num_iterations": 0})
    status, said = submit(text, "-s", "meta.num_iterations=5")
    assert status == 2
    assert [piece for piece, _ in blamed(text, said)] == ["0"]
    assert "num_iterations" not in said


def test_programs_are_told_in_json(submit):
    text = written({"training.num_steps": 0})
    status, said = submit(text, "--json", "-s", "meta.num_iterations=0")
    assert status == 2
    error = json.loads(said)["error"]
    assert error["code"] == "invalid_spec"
    by_field = {".".join(one["loc"]): one for one in error["errors"]}
    line = text.splitlines().index('    "num_steps": 0,') + 1
    assert (
        by_field["training.num_steps"] | {"file": "job.json", "line": line, "column": 18}
        == (by_field["training.num_steps"])
    )
    assert by_field["meta.num_iterations"]["option"] == "-s meta.num_iterations=0"
    assert "must be greater than 0" in error["message"]


def test_a_good_job_is_taken(submit):
    status, said = submit(written(), "-s", "name=two words", "-s", "training.num_steps=5")
    assert (status, said) == (0, "")


@pytest.mark.parametrize("width", [20, 40, 80])
def test_long_lines_are_cut_around_the_caret(width):
    for before in ("", "x" * 200, "漢" * 100, "漢" * 99 + "x", "\t" * 5):
        for after in ("", "y" * 200, "字" * 100):
            text = f"{before}!{after}"
            mistake = Mistake("is wrong", (), Written("job.json", text), Span(len(before), len(before) + 1))
            _, line, caret = mistake.shown(width).plain.split("\n")
            assert cell_len(line) <= max(width, 20 + len("  1 │ "))
            assert cell_len(line[: line.index("!")]) == cell_len(caret[: caret.index("^")])
