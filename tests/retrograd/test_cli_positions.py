"""Every value and every key of a JSON text is found where it stands."""

import json
from itertools import cycle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrograd.cli.positions import Span, line_and_column, locate


class Pairs(list):
    """An object as it is written, in which keys may come again."""


NAMES = st.one_of(
    st.sampled_from(["a", "b", "", "a.b", '"', "\\", "ключ", "𝔞", "\u2028", "}"]), st.text(max_size=4)
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=6),
    st.sampled_from(['{"a": 1}', "[", ",", ':"', "\\\\", '\\"', "\r\n", "😀"]),
)  # fmt: skip
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.lists(st.tuples(NAMES, inner), max_size=4).map(Pairs)),
    max_leaves=20,
)
BLANKS = st.lists(st.text(" \t\r\n", max_size=3), min_size=1, max_size=7)


class Writer:
    """Writes a document and notes where it puts what, as an oracle."""

    def __init__(self, blanks, ascii):
        self.text, self.spans = "", {}
        self._blanks, self._ascii = cycle(blanks), ascii

    def write(self, value, path=(), key=None):
        self._blank()
        start = len(self.text)
        for known in [known for known in self.spans if known[: len(path)] == path]:
            del self.spans[known]  # the last one counts
        if isinstance(value, Pairs):
            self.text += "{"
            for number, (name, inner) in enumerate(value):
                self.text += "," if number else ""
                self._blank()
                begin = len(self.text)
                self.text += json.dumps(name, ensure_ascii=self._ascii)
                end = len(self.text)
                self._blank()
                self.text += ":"
                self.write(inner, (*path, name), Span(begin, end))
            self._blank()
            self.text += "}"
        elif isinstance(value, list):
            self.text += "["
            for number, inner in enumerate(value):
                self.text += "," if number else ""
                self.write(inner, (*path, number))
            self._blank()
            self.text += "]"
        else:
            self.text += json.dumps(value, ensure_ascii=self._ascii)
        self.spans[path] = (Span(start, len(self.text)), key)
        self._blank()

    def _blank(self):
        self.text += next(self._blanks)


def paths_of(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths_of(inner, (*path, name))


@given(DOCUMENTS, BLANKS, st.booleans())
def test_every_node_is_where_it_was_written(document, blanks, ascii):
    writer = Writer(blanks, ascii)
    writer.write(document)
    found = {path: (node.span, node.key) for path, node in locate(writer.text).walk()}
    assert found == writer.spans
    assert set(found) == set(paths_of(json.loads(writer.text)))  # and that is what Python reads


@given(DOCUMENTS, BLANKS)
def test_what_stands_there_is_the_value(document, blanks):
    writer = Writer(blanks, ascii=True)
    writer.write(document)
    for path, node in locate(writer.text).walk():
        value = json.loads(writer.text)
        for part in path:
            value = value[part]
        assert json.loads(writer.text[node.span.start : node.span.stop]) == value
        if node.key is not None:
            assert json.loads(writer.text[node.key.start : node.key.stop]) == path[-1]


@given(DOCUMENTS, BLANKS, st.text(max_size=5))
def test_a_text_may_begin_later(document, blanks, before):
    writer = Writer(blanks, ascii=False)
    writer.write(document)
    shift = len(before)
    later = {path: node.span for path, node in locate(before + writer.text, shift).walk()}
    assert later == {path: Span(span.start + shift, span.stop + shift) for path, (span, _) in writer.spans.items()}


def test_keys_that_come_again_are_known_and_the_last_one_counts():
    text = '{"a": {"b": 1}, "c": 2, "a": {}, "a": 3}'
    root = locate(text)
    assert [text[span.start : span.stop] for span in root.repeated] == ['"a"', '"a"']
    assert [span.start for span in root.repeated] == [24, 33]
    assert root.follow(("a", "b"))[1] == 1  # the b of the first a is no more
    assert text[slice(*root.children["a"].span)] == "3"


def test_what_is_not_there_leads_to_what_should_hold_it():
    text = '{"problem": {"dataset": {"name": "digits"}, "tasks": [1, 2]}}'
    root = locate(text)
    node, taken = root.follow(("problem", "dataset", "split", "train"))
    assert (text[slice(*node.span)], taken) == ('{"name": "digits"}', 2)
    node, taken = root.follow(("problem", "tasks", 1))
    assert (text[slice(*node.span)], taken) == ("2", 3)
    assert root.follow(("problem", "tasks", 2))[1] == 2


def test_depth_is_no_matter():
    text = "[" * 100_000 + "]" * 100_000
    assert locate(text).span == Span(0, len(text))


@pytest.mark.parametrize(
    ("offset", "place"),
    [(0, (1, 1)), (1, (1, 2)), (2, (1, 3)), (3, (2, 1)), (4, (3, 1)), (5, (3, 2)), (6, (3, 3))],
)
def test_lines_and_columns_begin_at_one(offset, place):
    assert line_and_column("ab\n\n𝔞c", offset) == place
