"""Servers that are none of ours, or of another version: one error that says so, whatever they answer."""

import json

import pytest

from retrograd.client import ApiError
from retrograd.client.call import Seen
from tests.retrograd.client.test_requests import ID, JOB, serving

DEEP = "[" * 100_000
PACKED = {"Content-Encoding": "gzip"}
JOBS = [
    DEEP, "", "<html>", "[]", "null", "{}", '{"id": 1', "\ufeff{}",
    JOB | {"id": "../../etc/passwd"}, JOB | {"id": None}, JOB | {"id": ID + "\n"}, JOB | {"id": [ID]},
    JOB | {"name": None}, JOB | {"state": 3}, JOB | {"progress": None}, JOB | {"progress": []},
    JOB | {"progress": {"meta_iteration": "1", "of": 2}}, JOB | {"progress": {"meta_iteration": 1}},
]  # fmt: skip
PAGES = [
    DEEP, {"data": []}, {"data": None, "next": None}, {"data": [1], "next": None}, {"data": {}, "next": None},
    {"data": [{}], "next": None}, {"data": [], "next": [1]}, {"data": [JOB | {"id": ".."}], "next": None},
]  # fmt: skip


def told(call):
    with pytest.raises(ApiError) as caught:
        call()
    assert caught.value.code == "not_retrograd"
    assert str(caught.value).count("\n") == 0
    assert "does not answer like a Retrograd server of this version; check the address" in str(caught.value)
    return caught.value


@pytest.mark.parametrize("answer", JOBS)
def test_a_job_that_is_none(connect, answer):
    with serving(*[(200, answer)] * 3, (200, JOB), (200, answer)) as (url, _):
        jobs = connect(url).jobs
        told(lambda: jobs.get(ID))
        told(lambda: jobs.create(preset="x"))
        told(lambda: list(jobs.all()))
        job = jobs.get(ID)
        told(job.refresh)
    assert job.state == "queued"  # as it was


@pytest.mark.parametrize("answer", PAGES)
def test_pages_that_are_none(connect, answer):
    with serving(*[(200, answer)] * 2) as (url, _):
        client = connect(url)
        told(client.jobs.list)
        told(lambda: list(client.jobs.all()))


@pytest.mark.parametrize(
    "answer", ["{}", {"data": [1], "more": False}, {"data": ["a"]}, {"data": "ab", "more": False}, DEEP]
)
def test_other_lists(connect, answer):
    with serving(*[(200, answer)] * 2) as (url, _):
        client = connect(url)
        told(client.jobs.cancel_all)
        told(client.presets.names)


@pytest.mark.parametrize("body", ["no zip", "", "PK\x03\x04 no more"])
def test_arrays_and_curves_that_are_none(connect, body):
    with serving((200, JOB), *[(200, body)] * 2) as (url, _):
        job = connect(url).jobs.get(ID)
        told(job.hyperparameters)
        told(job.curves)


@pytest.mark.parametrize("name", ["../x", "a/b", "A", "", None, "x.png", "a\n"])
def test_names_of_figures_make_no_paths(connect, name):
    with serving((200, JOB), (200, {"data": [{"name": name, "title": "x"}]})) as (url, _):
        told(connect(url).jobs.get(ID).figures)


@pytest.mark.parametrize("data", ["no json", "[1]", "{}", '{"number": "1"}', DEEP])
def test_events_that_are_none(connect, pauses, data):
    with serving((200, JOB), (200, f"data: {data}\n\n")) as (url, _):
        told(lambda: list(connect(url).jobs.get(ID).events()))


@pytest.mark.parametrize("answer", [DEEP, {"data": [1], "next": None}, {"data": []}])
def test_past_events_that_are_none(connect, answer):
    with serving((200, JOB), (200, answer)) as (url, _):
        told(connect(url).jobs.get(ID).past_events)


def test_what_cannot_be_unpacked(connect, tmp_path):
    with serving((200, JOB), *[(200, "no gzip", PACKED)] * 3) as (url, _):
        job = connect(url).jobs.get(ID)
        assert told(job.refresh).status == 0
        told(lambda: job.download(tmp_path / "a.json"))
        told(lambda: list(job.events()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "problem",
    [DEEP, {"code": "x", "title": "y", "errors": [1]}, {"code": "x", "title": "y", "errors": 5}, {"errors": {}}],
)
def test_refusals_that_are_none_of_ours(connect, problem):
    with serving((409, problem)) as (url, _), pytest.raises(ApiError) as caught:
        connect(url).jobs.get(ID)
    assert caught.value.code == "unexpected_answer"


def test_what_is_wrong_here_is_not_blamed_on_the_server(connect, tmp_path):
    with serving((200, JOB), (200, "x")) as (url, _):
        job = connect(url).jobs.get(ID)
        with pytest.raises(FileNotFoundError):
            job.download(tmp_path / "nowhere" / "a.json")
        with pytest.raises(TypeError):
            connect(url).jobs.create({"a": object()})


def test_a_job_as_ours_is_one():
    assert Seen.read(json.loads(json.dumps(JOB)), '"1"') == (JOB, '"1"')
