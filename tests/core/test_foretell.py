"""Plans of real jobs, by the process that makes them."""

import json
import signal
import subprocess
import sys

import pytest

from core.presets import get
from core.spec import JobSpec
from tests.builders import document


def foretell(changes=None, **limits):
    arguments = [part for name, value in limits.items() for part in (f"--{name}", str(value))]
    return subprocess.run(
        [sys.executable, "-m", "core.foretell", *arguments],
        input=json.dumps(document(changes)), capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_a_job_is_foretold_without_being_run():
    run = foretell({"meta.seeds_per_iteration": 3, "engine": "unrolled"}, seconds=280)
    assert run.returncode == 0, run.stderr
    plan = json.loads(run.stdout)["plan"]
    assert (plan["engine"], plan["fallback"]) == ("unrolled", None)
    assert (plan["hypergradients"], plan["trainings"]) == (12, 6)
    assert plan["machine"].startswith("cpu")
    assert [one["name"] for one in plan["engines"]] == ["unrolled", "reversible"]  # the job's own first
    for one in plan["engines"]:
        assert one["seconds"] > 0
        assert one["job_seconds"] == 12 * one["seconds"]
        assert one["device_bytes"] > 0
        assert one["fits"]


def test_too_little_time_ends_it_wherever_it_is():
    assert foretell(seconds=0.5).returncode == -signal.SIGALRM


def test_too_little_memory_does_not_pass_for_a_plan():
    run = foretell(bytes=120 << 20, seconds=60)
    refused = run.returncode == 0 and json.loads(run.stdout)["error"]["code"] == "out_of_memory"
    assert refused or run.returncode == -signal.SIGABRT  # by what of its libraries meets the limit first


def test_a_job_that_cannot_be_run_is_refused_in_words(monkeypatch):
    monkeypatch.setenv("RETROGRAD_DATA", "/nowhere")
    run = foretell({"problem.dataset.name": "mnist"}, seconds=280)
    assert run.returncode == 0, run.stderr
    error = json.loads(run.stdout)["error"]
    assert error["code"] == "invalid_spec"
    assert error["details"]["errors"]


def test_evaluations_and_searches_are_counted():
    from core.foretell import _trainings

    assert _trainings(JobSpec.model_validate(document())) == 3 * 2
    searching = get("search-then-descend")
    meta = searching.meta
    assert _trainings(searching) >= 4 * meta.evaluation_seeds + meta.warm_start.trials
    guarded = document({"meta.safeguard": {"every": 3}})
    assert _trainings(JobSpec.model_validate(guarded)) == (3 + 1 + 2) * 2
