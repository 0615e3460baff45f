"""Both clients against the real API; what a worker does is done through the store."""

import json
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from core import presets
from core.spec import JobSpec
from retrograd.client import ApiError, calls
from tests.api.test_events import live
from tests.api.test_jobs import work
from tests.builders import SMALL, document, eventually
from tests.conftest import serving


def test_a_job_from_its_creation_to_its_deletion(ours, sessions):
    job = ours.jobs.create(SMALL)
    assert (job.name, job.state, job.ended, job["progress"]["of"]) == ("small", "queued", False, 4)
    assert "small" in repr(job)
    assert ours.jobs.get(job.id).document == job.document
    assert job.pause().state == "paused"
    assert job.resume().state == "queued"
    assert job.cancel().ended
    assert job.retry().state == "queued"
    work(sessions, job.document)
    assert job.state == "queued"  # as last seen
    assert job.wait(timeout=10).state == "succeeded"
    assert job["losses"]["best"]["test"] == 4
    assert [event["kind"] for event in job.past_events()][-1] == "succeeded"
    assert job.curves()["outer_loss"][0] == 3
    assert job.hyperparameters().iteration == 1
    job.delete()
    with pytest.raises(ApiError, match="unknown_job"):
        job.refresh()


def test_specifications_are_mappings_or_models_and_presets_go_by_name(ours):
    made = [
        ours.jobs.create(JobSpec.model_validate(SMALL)),
        ours.jobs.create(SMALL),
        ours.jobs.create(preset="digits-schedules"),
        ours.jobs.create(ours.presets.get("digits-schedules")),
    ]
    assert made[0]["spec_sha256"] == made[1]["spec_sha256"]
    assert [job["preset"] for job in made] == [None, None, "digits-schedules", "digits-schedules"]
    assert ours.presets.names() == list(presets.names())


def test_one_idempotency_key_is_one_job(ours):
    one = ours.jobs.create(SMALL, idempotency_key="mine")
    assert ours.jobs.create(SMALL, idempotency_key="mine").id == one.id
    assert ours.jobs.create(SMALL).id != one.id  # the control
    with pytest.raises(ApiError) as caught:
        ours.jobs.create(document({"name": "another"}), idempotency_key="mine")
    assert caught.value.status == 409


def test_a_bad_field_is_named(ours):
    with pytest.raises(ApiError, match=r"training\.num_steps: ") as caught:
        ours.jobs.create(document({"training.num_steps": 0}))
    assert caught.value.errors[0]["loc"] == ["training", "num_steps"]


def test_jobs_are_listed_searched_and_iterated_over_all_pages(ours, monkeypatch):
    monkeypatch.setattr(calls, "_PAGE", 5)
    made = [ours.jobs.create(document({"name": f"job {number}"})).id for number in range(12)]
    newest_first = made[::-1]
    assert [job.id for job in ours.jobs.list(10)] == newest_first[:10]
    assert [job.id for job in ours.jobs.list(2, state="queued", search="JOB 1")] == newest_first[:2]
    assert ours.jobs.list(state="paused") == []
    assert [job.id for job in ours.jobs.all()] == newest_first
    assert [job.name for job in ours.jobs.all(search="job 11")] == ["job 11"]
    assert sorted(ours.jobs.cancel_all(state="queued")) == sorted(made)
    assert list(ours.jobs.all(state="queued")) == []


def test_lists_have_less_of_a_job_and_say_how_to_have_the_rest(ours):
    ours.jobs.create(SMALL)
    [job] = ours.jobs.list()
    with pytest.raises(KeyError, match="`refresh` the job"):
        job["losses"]
    assert job.refresh()["losses"] == {}
    with pytest.raises(KeyError, match=r"^'loses'$"):
        job["loses"]


def test_events_are_told_as_they_happen_and_again_from_anywhere(ours, sessions):
    job = ours.jobs.create(SMALL)
    events = job.events()
    assert next(events)["kind"] == "created"
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(live, sessions, UUID(job.id))
        rest = list(events)
        done.result()
    assert [event["number"] for event in rest] == list(range(2, 8))
    assert rest == job.past_events()[1:]
    assert list(job.events(after=5)) == rest[4:]
    assert list(job.events(after=7)) == []


def test_a_stream_that_nobody_reads_on_is_closed(settings, sessions, connect, key):
    """Or the second one would find no place."""
    with serving(settings.model_copy(update={"max_streams": 1})) as api:
        job = connect(str(api.base_url), key).jobs.create(SMALL)
        for _ in range(3):
            events = job.events()
            assert next(events)["kind"] == "created"
            events.close()


def test_limits_of_requests_are_kept_by_waiting(settings, connect, key):
    with serving(settings.model_copy(update={"rate_limit_writes": "1 per 2 seconds"})) as api:
        client = connect(str(api.base_url), key)
        eventually(lambda: api.post("/v1/jobs", json=SMALL).status_code == 429)  # the control
        before = len(client.jobs.list())
        client.jobs.create(SMALL)
        client.jobs.create(SMALL)
        assert len(client.jobs.list()) == before + 2


def test_quotas_that_waiting_does_not_mend_are_told_at_once(settings, connect, key, pauses):
    with serving(settings.model_copy(update={"quota_stored_bytes": 1})) as api:
        client = connect(str(api.base_url), key)
        with pytest.raises(ApiError) as caught:
            client.datasets.upload({"inputs": [[0.0], [1.0]], "labels": [0, 1]}, "small")
    assert (caught.value.code, pauses) == ("quota_exceeded", [])


def test_keys_project_and_kinds(ours, connect, url):
    made = ours.keys.create("reader", ["read"])
    reader = connect(url, made["key"])
    assert reader.project()["name"] == "default"
    assert {kind["kind"] for kind in reader.problem_kinds()} >= {"classifier", "toy"}
    with pytest.raises(ApiError, match="scope write"):
        reader.jobs.create(SMALL)
    assert [key["name"] for key in ours.keys.list()] == ["reader", ""]
    ours.keys.revoke(made["id"])
    with pytest.raises(ApiError, match="unauthorized"):
        reader.project()


def test_data_are_uploaded_listed_and_deleted(ours):
    sent = ours.datasets.upload({"inputs": [[0.0, 1.0]] * 4, "labels": [0, 1, 0, 1]}, "small")
    assert ours.datasets.get(sent["id"]) == sent
    assert [one["name"] for one in ours.datasets.list()] == ["small"]
    ours.datasets.delete(sent["id"])
    assert ours.datasets.list() == []


def test_figures_and_trials(ours, sessions):
    job = ours.jobs.create(SMALL)
    assert (job.figures(), job.trials()) == ([], [])
    work(sessions, job.document)
    names = [figure["name"] for figure in job.figures()]
    assert "losses" in names
    assert job.figure("losses").startswith(b"\x89PNG")
    with pytest.raises(ApiError, match="loses"):
        job.figure("loses")


def test_a_webhooks_deliveries(settings, sessions, connect, key):
    with serving(settings.model_copy(update={"webhook_allow_private": True})) as api:
        job = connect(str(api.base_url), key).jobs.create(SMALL | {"webhook": {"url": "http://127.0.0.1:9/"}})
        assert job.deliveries() == []
        job.cancel()
        [delivery] = job.deliveries()
        assert job.redeliver(delivery["id"])["kind"] == "job.cancelled"


@pytest.mark.parametrize("iteration", ["best", "last", 0])
def test_results_are_saved_as_they_are_sent(ours, client, sessions, tmp_path, iteration):
    job = ours.jobs.create(SMALL)
    work(sessions, job.document)
    for format in ("json", "npz"):
        path = job.download(tmp_path / f"result.{format}", iteration, format)
        answer = client.get(
            f"/v1/jobs/{job.id}/hyperparameters", params={"iteration": iteration, "format": format}
        )
        assert path.read_bytes() == answer.content
    assert json.loads((tmp_path / "result.json").read_text())["job_id"] == job.id


def test_a_preset_that_is_misspelt_is_told_with_what_may_be_meant(ours):
    for ask in (lambda: ours.jobs.create(preset="digit-schedules"), lambda: ours.presets.get("digit-schedules")):
        with pytest.raises(ApiError, match="no preset 'digit-schedules'; did you mean 'digits-schedules'"):
            ask()


def test_a_wrong_key_is_told_with_the_clients_own_remedy(connect, url):
    with pytest.raises(ApiError, match=r"one of this server's as Client\(api_key=…\) or RETROGRAD_API_KEY"):
        connect(url, "rg_" + "x" * 43).jobs.list()


def test_arrays_that_are_not_there_are_told_with_those_that_are(learned):
    with pytest.raises(KeyError, match="no 'nope' here; there are: momentum, step_size"):
        learned.hyperparameters()["nope"]
    assert "nope" not in learned.hyperparameters()
