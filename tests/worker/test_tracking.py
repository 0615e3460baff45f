"""Ends of jobs become runs in a real MLflow store: whole, once, whatever happens meanwhile."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select, text

from core.config import Settings
from core.records import Evaluation, Losses
from core.spec import JobSpec
from core.store import jobs, leases, overview, tracking
from core.store.models import Job, TrackedEnd
from retrograd.local.servers import free_port
from tests.builders import claim, create, eventually, record, values
from tests.conftest import running
from tests.store.test_leases import write

mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")

from worker import tracked_run  # noqa: E402
from worker.tracked_run import LONGEST_VALUE, MOST_PARAMS  # noqa: E402
from worker.tracker import Superseded, Tracker, wait_after  # noqa: E402
from worker.tracking_server import TrackingServer  # noqa: E402

# of MLflow's own tables, by a release of SQLAlchemy that is newer than what it was written for
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

FOUND = Evaluation(Losses(1.0, 2.0, math.nan, 4.0), {"test_accuracy": 0.5})
EXPERIMENT = "trials of ours"


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A store that is only ever copied: MLflow takes seconds to make one."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def uri(request, tmp_path, monkeypatch):
    """A store of its own; or a server, `MLFLOW_SERVER`, with no runs in the experiment."""
    if server := os.environ.get("MLFLOW_SERVER"):
        client = mlflow.MlflowClient(tracking_uri=server)
        if (found := client.get_experiment_by_name(EXPERIMENT)) is not None:
            for run in client.search_runs([found.experiment_id]):
                client.delete_run(run.info.run_id)
        mlflow.set_tracking_uri(server)  # for what reads files of runs
        return server
    empty_store = request.getfixturevalue("empty_store")
    monkeypatch.chdir(tmp_path)  # where files of runs go
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def server(uri):
    return TrackingServer(uri, EXPERIMENT)


@pytest.fixture
def tracker(sessions, server):
    return Tracker(sessions, server, threading.Event())


@pytest.fixture
def store(uri):
    return mlflow.MlflowClient(tracking_uri=uri)


@pytest.fixture
def runs(store):
    def runs():
        experiment = store.get_experiment_by_name(EXPERIMENT)
        return [] if experiment is None else store.search_runs([experiment.experiment_id])

    return runs


def succeeded(sessions, project, iterations=3, **changes):
    job_id = create(sessions, project, preset="digits-schedules")
    lease = claim(sessions, job_id)
    provenance = {"device": "cpu: test", "versions": {"jax": "0.10.2"}}
    write(sessions, leases.save_start, lease, values(0), {"initial": FOUND}, provenance)
    for number in range(iterations):
        one = record(number, outer=1 / (number + 1), best=number, best_loss=1 / (number + 1))
        write(sessions, leases.save_iteration, lease, replace(one, **changes) if number == 1 else one)
    end = {"initial": FOUND, "best": FOUND._replace(losses=Losses(0.1, 0.2, 0.3, 0.4)), "last": None}
    curve = {"learning_curve.best": np.arange(3.0)}
    write(
        sessions,
        leases.succeed,
        lease,
        best_iteration=iterations,
        evaluations=end,
        arrays=curve,
        provenance=provenance,
    )
    return job_id


def cancelled(sessions, project):
    job_id = create(sessions, project)
    write(sessions, jobs.cancel, project, job_id)
    return job_id


SAME = (
    "train_loss, valid_loss, test_loss, hypergradient_norm, seconds, certificate, attempt, lease_epoch, created_at"
)
MORE = text(
    f"INSERT INTO iterations (job_id, iteration, outer_loss, {SAME}) SELECT job_id, n, outer_loss / n, {SAME} "
    "FROM iterations, generate_series(3, 119) n WHERE iteration = 0"
)


def noted(sessions, job_id):
    with sessions() as session:
        query = select(TrackedEnd).where(TrackedEnd.job_id == job_id).order_by(TrackedEnd.event)
        return list(session.scalars(query))


def read(sessions, job_id, which=-1):
    with sessions() as session:
        return tracked_run.read(session, tracking.Due(job_id, noted(sessions, job_id)[which].event, 1))


def fall_due(sessions):
    write(sessions, lambda session: session.execute(text("UPDATE tracked_ends SET next_attempt_at = now()")))


def files(store, run_id, path=None):
    found = store.list_artifacts(run_id, path)
    return {one.path for one in found if not one.is_dir} | {
        deeper for one in found if one.is_dir for deeper in files(store, run_id, one.path)
    }


def test_a_run_says_what_the_job_was_and_found(sessions, project, tracker, runs, store, tmp_path):
    job_id = succeeded(sessions, project)
    tracker.track()
    (run,) = runs()
    with sessions() as session:
        job = session.get(Job, job_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", f"small {str(job_id)[:8]}")
    assert run.info.start_time == int(1000 * job.started_at.timestamp())
    assert abs(run.info.end_time - 1000 * job.ended_at.timestamp()) < 1000
    params = run.data.params
    assert (
        params
        | {
            "problem.kind": "classifier",
            "training.num_steps": "10",
            "hyperparameters.step_size.per": '["step", "group"]',
            "preset": "digits-schedules",
            "num_hyperparameters": str(job.num_hyperparameters),
            "device": "cpu: test",
            "versions.jax": "0.10.2",
        }
        == params
    )
    tags = run.data.tags
    assert (
        tags
        | {
            "retrograd.job_id": str(job_id),
            "retrograd.state": "succeeded",
            "retrograd.project": "default",
            "retrograd.spec_sha256": job.spec_sha256,
            "retrograd.certificate_exact": "true",
            "retrograd.preset": "digits-schedules",
        }
        == tags
    )
    outer = store.get_metric_history(run.info.run_id, "outer_loss")
    assert [(one.step, one.value) for one in outer] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert [one.timestamp for one in outer] == sorted(one.timestamp for one in outer)
    metrics = run.data.metrics
    assert (
        metrics
        | {
            "hypergradient_norm": 0.1,
            "exact": 1.0,
            "mismatched_bits": 0.0,
            "initial/outer_loss": 1.0,
            "initial/test_accuracy": 0.5,
            "best/valid_loss": 0.3,
            "best/iteration": 3.0,
            "certificate/exact": 1.0,
            "certificate/mismatched_bits": 0.0,
            "certificate/stored_bits_per_param_step": 1.5,
        }
        == metrics
    )
    assert not {"iteration", "attempt", "engine", "initial/valid_loss", "last/outer_loss"} & set(metrics)
    written = files(store, run.info.run_id)
    assert written >= {"spec.json", "curves.csv", "arrays.npz", "result.json", "figures/losses.png"}
    found = json.loads(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/result.json"))
    assert (found["job_id"], found["iteration"]) == (str(job_id), 3)
    spec = json.loads(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/spec.json"))
    assert JobSpec.model_validate(spec).sha256() == job.spec_sha256
    (settled,) = noted(sessions, job_id)
    assert (settled.run_id, settled.next_attempt_at, settled.last_error) == (run.info.run_id, None, None)


def test_every_end_is_a_run_of_its_own_and_no_more(sessions, project, tracker, runs, store):
    job_id = create(sessions, project)
    lease = claim(sessions, job_id)
    write(sessions, leases.save_iteration, lease, record(0, outer=5.0, best=0, best_loss=5.0))
    write(sessions, leases.fail, lease, "diverged", "it did", {})
    write(sessions, jobs.retry, project, job_id)  # before the run of its failure is written
    lease = claim(sessions, job_id)
    write(sessions, leases.save_iteration, lease, record(1, outer=4.0, best=1, best_loss=4.0))
    write(sessions, jobs.cancel, project, job_id)
    write(sessions, leases.cancelled, lease)
    for _ in range(2):
        tracker.track()
        fall_due(sessions)  # as if it had not been written down
    by_status = {run.info.status: run for run in runs()}
    assert len(runs()) == len(by_status) == 2
    failed, killed = by_status["FAILED"], by_status["KILLED"]
    assert failed.data.tags["retrograd.error"] == "diverged: it did"
    assert {run.data.tags["retrograd.job_id"] for run in runs()} == {str(job_id)}
    steps = {name: store.get_metric_history(run.info.run_id, "outer_loss") for name, run in by_status.items()}
    assert [one.value for one in steps["FAILED"]] == [5.0]
    assert [one.value for one in steps["KILLED"]] == [5.0, 4.0]
    assert files(store, failed.info.run_id) == set()  # what there is now was found since
    assert "curves.csv" in files(store, killed.info.run_id)


def test_a_job_that_never_ran_is_a_run_too(sessions, project, tracker, runs, store):
    cancelled(sessions, project)
    tracker.track()
    (run,) = runs()
    assert (run.info.status, run.data.metrics) == ("KILLED", {})
    assert files(store, run.info.run_id) == {"spec.json", "curves.csv"}


def after(requests):
    """What ends the writing of a run after so many of them."""
    return partial(next, iter(range(requests)))


@pytest.mark.fault(
    injected="a writer of a run that dies between any two requests", checked="one run, whole, nothing twice"
)
def test_one_that_broke_off_anywhere_is_gone_on_with(sessions, project, server, runs, store):
    job_id = succeeded(sessions, project)
    write(sessions, lambda session: session.execute(MORE))
    run = read(sessions, job_id)
    whole = sorted((point.name, point.step, point.value) for point in run.points())
    assert len(whole) > 1000
    for breaks_after in range(20):  # each another end
        one = run._replace(identity={**run.identity, "retrograd.end": str(breaks_after)})
        try:
            server.write(one, after(breaks_after))
        except StopIteration:
            server.write(one, lambda: None)
        else:
            break
    else:
        pytest.fail("it never came to its end")
    assert breaks_after >= 5
    found = {one.data.tags["retrograd.end"]: one for one in runs()}
    assert len(found) == len(runs()) == breaks_after + 1
    for one in found.values():
        assert one.info.status == "FINISHED"
        assert one.data.params == run.params
        written = [
            (metric.key, metric.step, metric.value)
            for name in {name for name, *_ in whole}
            for metric in store.get_metric_history(one.info.run_id, name)
        ]
        assert sorted(written) == whole


def test_a_retry_elsewhere_meanwhile_keeps_no_end_from_being_written(sessions, project, server, tracker, runs):
    job_id = create(sessions, project)
    elsewhere = {"device": "cpu: slow", "versions": {"jax": "0.10.1"}}
    lease = claim(sessions, job_id)
    write(sessions, leases.save_start, lease, values(0), {"initial": FOUND}, elsewhere)
    write(sessions, leases.fail, lease, "diverged", "it did", {})
    with pytest.raises(StopIteration):  # the server goes away once parameters are there
        server.write(read(sessions, job_id), after(2))
    write(sessions, jobs.retry, project, job_id)
    lease = claim(sessions, job_id)
    write(sessions, leases.save_start, lease, values(0), {"initial": FOUND}, {**elsewhere, "device": "gpu: fast"})
    write(sessions, jobs.cancel, project, job_id)
    write(sessions, leases.cancelled, lease)
    assert not {"device", "versions.jax"} & set(read(sessions, job_id, 0).params)
    tracker.track()
    of = {run.info.status: run.data.params for run in runs()}
    assert (of["FAILED"]["device"], of["KILLED"]["device"]) == ("cpu: slow", "gpu: fast")


def test_parameters_that_are_there_stay_as_they_are(sessions, project, server, runs):
    run = read(sessions, cancelled(sessions, project))
    with pytest.raises(StopIteration):
        server.write(run, after(2))
    server.write(run._replace(params={**run.params, "training.num_steps": "11", "more": "1"}), lambda: None)
    (found,) = runs()
    assert (found.info.status, found.data.params) == ("KILLED", {**run.params, "more": "1"})


def test_who_was_slow_replaces_no_run_that_is_whole(sessions, project, server, store, runs):
    run = read(sessions, succeeded(sessions, project))
    with pytest.raises(Superseded):
        server.write(run, superseded)
    assert runs() == [], "nor makes another"
    experiment = server._experiment_id()
    made = sorted(store.create_run(experiment, tags=run.identity).info.run_id for _ in range(2))
    store.set_terminated(made[1], "FINISHED")
    assert server.write(run, superseded) == made[1]
    assert [(one.info.run_id, one.info.status) for one in runs()] == [(made[1], "FINISHED")]


def superseded():
    raise Superseded


def test_of_several_that_write_the_same_one_run_stays(sessions, project, uri, runs):
    server = TrackingServer(uri, EXPERIMENT)
    server.write(read(sessions, cancelled(sessions, project)), lambda: None)  # makes the experiment
    run = read(sessions, succeeded(sessions, project))
    together = threading.Barrier(2)

    class Late(TrackingServer):
        """Has looked before any of them made a run."""

        def _made(self, experiment_id, run):
            found = super()._made(experiment_id, run)
            if found is None:
                together.wait(120)
            return found

    def go(_):
        try:
            return Late(uri, EXPERIMENT).write(run, lambda: None)
        except mlflow.exceptions.MlflowException as error:  # its run was the one that went
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(go, range(2)))
    server.write(run, lambda: None)  # the next attempt of whoever failed
    found = [one for one in runs() if one.data.tags["retrograd.state"] == "succeeded"]
    assert [one.info.status for one in found] == ["FINISHED"]
    assert found[0].data.metrics["best/valid_loss"] == 0.3


@pytest.mark.fault(
    injected="an MLflow server that is away", checked="no job is held up, and its run is written later"
)
def unwritten(sessions):
    with sessions() as session:
        return overview.read(session).unwritten_runs


def test_while_the_server_is_away_it_is_tried_again(sessions, project, tracker, runs, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = Tracker(sessions, TrackingServer(f"http://127.0.0.1:{free_port()}", EXPERIMENT), threading.Event())
    job_id, other = succeeded(sessions, project), cancelled(sessions, project)
    with pytest.raises(mlflow.exceptions.MlflowException):
        away.track()
    (first,), (second,) = noted(sessions, job_id), noted(sessions, other)
    assert (first.attempt, second.attempt) == (1, 0)  # nor is more asked of it than one
    assert "MlflowException" in first.last_error
    assert first.next_attempt_at is not None
    assert unwritten(sessions) == 1
    tracker.track()
    assert len(runs()) == 1
    fall_due(sessions)
    tracker.track()
    assert len(runs()) == 2
    assert noted(sessions, job_id)[0].last_error is None
    assert unwritten(sessions) == 0


def test_one_that_cannot_be_written_holds_no_other_up(sessions, project, tracker, runs):
    broken, fine = cancelled(sessions, project), cancelled(sessions, project)
    damage = text("UPDATE jobs SET spec = '{}' WHERE id = :id")
    write(sessions, lambda session: session.execute(damage, {"id": broken}))
    with pytest.raises(Exception, match="problem"):
        tracker.track()
    tracker.track()
    assert [run.data.tags["retrograd.job_id"] for run in runs()] == [str(fine)]
    assert noted(sessions, broken)[0].next_attempt_at is not None


def test_a_job_that_is_deleted_meanwhile_is_nobodys_error(sessions, project, tracker, server, runs):
    job_id = cancelled(sessions, project)
    due = write(sessions, tracking.claim, 60.0)
    write(sessions, jobs.remove, project, job_id)
    with pytest.raises(Superseded):
        tracker._write(due)
    tracker.track()
    assert runs() == []


def test_waits_grow_to_an_hour_and_never_end():
    assert wait_after(1, 0.5) == pytest.approx(10.0)
    assert wait_after(3, 0.5) == pytest.approx(90.0)
    assert wait_after(10**6, 0.5) == pytest.approx(3600.0)
    assert wait_after(1, 0.0) == pytest.approx(8.0)
    assert wait_after(1, 1.0) == pytest.approx(12.0)


def test_params_and_names_are_within_what_servers_take(sessions, project):
    job_id = cancelled(sessions, project)
    odd = {"a/../b:c d": 1, "text": "é" * 10_000, "list": list(range(5000))} | {f"n{n}": n for n in range(2000)}
    with sessions() as session:
        job = session.get(Job, job_id)
        job.spec = job.spec | {"odd": odd}
        params = tracked_run._params(job, True)
        session.rollback()
    assert len(params) == MOST_PARAMS
    assert {"preset", "num_hyperparameters"} & set(params) == {"num_hyperparameters"}
    assert params["odd.a_.._b_c d"] == "1"
    assert len(params["odd.text"]) == len(params["odd.list"]) == LONGEST_VALUE
    assert params["odd.list"].endswith("…")


@pytest.mark.parametrize("name", ["", ".", "..", "a/../b", "...", "ok."])
def test_a_metric_may_have_any_name(sessions, project, server, runs, name):
    job_id = succeeded(sessions, project)
    with sessions.begin() as session:
        job = session.get(Job, job_id)
        job.losses = {"initial": {"outer": 1.0, "measures": {name: 0.25}}}
    server.write(read(sessions, job_id), lambda: None)
    (run,) = runs()
    named = {key for key, value in run.data.metrics.items() if key.startswith("initial/") and value == 0.25}
    assert len(named) == 1


def test_numbers_that_are_not_finite_are_left_out(sessions, project):
    run = read(sessions, succeeded(sessions, project, losses=Losses(*[math.inf] * 4)))
    assert {point.step for point in run.points() if point.name == "train_loss"} == {0, 2}
    assert {point.step for point in run.points() if point.name == "hypergradient_norm"} == {0, 1, 2}
    assert all(math.isfinite(point.value) for point in run.points())


def test_the_janitor_writes_runs_beside_its_duties(settings, sessions, project, uri, runs, tmp_path):
    job_id = succeeded(sessions, project)
    environ = {"RETROGRAD_MLFLOW_TRACKING_URI": uri, "RETROGRAD_MLFLOW_EXPERIMENT": EXPERIMENT}
    with running("worker.janitor", settings, tmp_path / "janitor.log", **environ) as janitor:
        eventually(lambda: noted(sessions, job_id)[0].run_id, 240)
        janitor.terminate()
        assert janitor.wait(30) == 0
    assert [run.info.run_id for run in runs()] == [noted(sessions, job_id)[0].run_id]
    assert "works" not in (tmp_path / "janitor.log").read_text()


def test_without_the_library_the_janitor_says_so_at_once(settings, tmp_path):
    (tmp_path / "mlflow.py").write_text("raise ImportError('not here')")
    environ = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
        "RETROGRAD_DATABASE_URL": settings.database_url,
        "RETROGRAD_BROKER_URL": settings.broker_url.get_secret_value(),
        "RETROGRAD_MLFLOW_TRACKING_URI": "http://127.0.0.1:1",
    }
    done = subprocess.run([sys.executable, "-m", "worker.janitor"], env=environ, capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'retrograd[mlflow]'" in done.stderr


def test_nothing_is_kept_for_long_where_there_is_no_server(settings, sessions, project):
    from worker.janitor import Janitor

    job_id = cancelled(sessions, project)
    age = text("UPDATE tracked_ends SET next_attempt_at = now() - interval '2 hours'")
    write(sessions, lambda session: session.execute(age))
    wanted = settings.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:1"})
    Janitor(sessions, wanted).forget()
    assert len(noted(sessions, job_id)) == 1
    Janitor(sessions, settings).forget()
    assert noted(sessions, job_id) == []


def test_the_page_on_it_is_right(sessions, project, uri, capsys):
    page = (Path(__file__).parents[2] / "docs/how-to/send-results-to-mlflow.md").read_text()
    program = re.search(r"<!-- test: read -->\n```python\n(.*?)```", page, re.DOTALL).group(1)
    job_id = succeeded(sessions, project)
    Tracker(sessions, TrackingServer(uri, Settings().mlflow_experiment), threading.Event()).track()
    exec(compile(program, "page", "exec"), {"tracking_uri": uri, "job_id": job_id})
    first, *losses, listed = capsys.readouterr().out.splitlines()
    assert (first, losses[0]) == ("FINISHED 10 true", "0 1.0")
    assert {"result.json", "arrays.npz", "curves.csv", "spec.json", "figures"} == set(
        re.findall(r"'([^']+)'", listed)
    )
    for named in ("result.json", "arrays.npz", "curves.csv", "spec.json"):
        assert f"`{named}`" in page
    with sessions() as session:
        tags = tracked_run.read(session, tracking.Due(job_id, noted(sessions, job_id)[0].event, 1))
    assert all(f"`{tag}`" in page for tag in {**tags.identity, **tags.tags} if tag.startswith("retrograd."))


def test_the_settings_have_defaults():
    assert (Settings().mlflow_tracking_uri, Settings().mlflow_experiment) == ("", "retrograd")
