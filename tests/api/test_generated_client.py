"""The OpenAPI document is good enough: a client that a generator makes of it does what the service is for."""

import asyncio
import importlib
import io
import json
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID, uuid4

import numpy as np
import pytest

from api.app import create_app
from api.description import PROBLEM_JSON
from core.config import Settings
from tests.api.test_jobs import work
from tests.builders import document

PACKAGE = "retrograd_api"
PAGE = (Path(__file__).parents[2] / "docs/how-to/generate-a-client.md").read_text()
DOCUMENT = create_app(Settings(database_url="postgresql+psycopg://")).openapi()
OPERATIONS = [operation for path in DOCUMENT["paths"].values() for operation in path.values()]


def block(name):
    return re.search(rf"<!-- test: {name} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL).group(1)


# the document


def test_operations_have_short_names_of_their_own_and_known_tags():
    names = [operation["operationId"] for operation in OPERATIONS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+){0,2}", name) for name in names), names
    known = {tag["name"] for tag in DOCUMENT["tags"]}
    assert {tag for operation in OPERATIONS for tag in operation["tags"]} == known


def test_every_answer_has_a_schema_and_every_error_is_a_problem():
    for operation in OPERATIONS:
        for status, response in operation["responses"].items():
            if status in ("204", "304"):
                assert "content" not in response
                continue
            for kind, content in response["content"].items():
                assert content["schema"], (operation["operationId"], status, kind)
        for status in ("4XX", "5XX"):
            content = operation["responses"][status]["content"]
            assert content == {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}


def test_schemas_are_there_once_and_all_are_used():
    schemas = DOCUMENT["components"]["schemas"]
    assert not [name for name in schemas if not re.fullmatch(r"[A-Z][A-Za-z0-9]+", name)]
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(DOCUMENT)))
    assert named == set(schemas)


# the client


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """The package, made without a warning."""
    folder = tmp_path_factory.mktemp("generated")
    (folder / "openapi.json").write_text(json.dumps(DOCUMENT))
    (folder / "generator.yaml").write_text(block("config") + "post_hooks: []\n")  # no need of tidy code
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", "openapi.json"]
    command += ["--config", "generator.yaml", "--meta", "none", "--output-path", PACKAGE, "--fail-on-warning"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "arning" not in done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    yield folder / PACKAGE
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.fixture
def models(generated):
    return importlib.import_module(f"{PACKAGE}.models")


@pytest.fixture
def client_of(generated, url):
    with ExitStack() as stack:
        made = importlib.import_module(PACKAGE).AuthenticatedClient
        yield lambda key: stack.enter_context(made(url, token=key))


@pytest.fixture
def http(client_of, key):
    return client_of(key)


@pytest.fixture
def api(generated, http):
    """Every operation by name, as a function that answers with status, headers and what was read."""

    def called(module):
        def call(*arguments, client=http, **options):
            return module.sync_detailed(*arguments, client=client, **options)

        return call

    found = sorted(generated.glob("api/*/[a-z]*.py"))
    modules = {
        path.stem: importlib.import_module(f"{PACKAGE}.api.{path.parent.name}.{path.stem}") for path in found
    }
    return SimpleNamespace(**{name: called(module) for name, module in modules.items()}, modules=modules)


def test_it_has_all_operations(api):
    assert set(api.modules) == {operation["operationId"] for operation in OPERATIONS}


def test_a_preset_becomes_a_job_that_is_read(api, models):
    spec = api.get_preset("digits-schedules").parsed
    assert isinstance(spec, models.JobSpec)
    assert isinstance(spec.problem, models.ClassifierProblem)
    assert isinstance(spec.problem.dataset, models.Dataset)
    assert isinstance(spec.problem.model, models.MLP)
    created = api.create_job(body=models.JobRequest.from_dict(spec.to_dict()))
    assert created.status_code == 202
    job = created.parsed
    assert isinstance(job, models.JobCreated)
    assert (job.state, job.preset, job.spec) == (models.JobState.QUEUED, "digits-schedules", spec)
    read = api.get_job(job.id)
    assert isinstance(read.parsed, models.JobRead)
    assert (read.parsed.id, read.parsed.progress.of) == (job.id, spec.meta.num_iterations)
    again = api.get_job(job.id, if_none_match=read.headers["ETag"])
    assert (again.status_code, again.parsed) == (304, None)


def test_a_job_by_name_is_made_once_for_a_key(api):
    first, second = (api.create_job(preset="digits-schedules", idempotency_key="mine") for _ in range(2))
    assert first.parsed.id == second.parsed.id
    assert second.headers["Idempotent-Replayed"] == "true"


def test_lists_are_read_page_by_page(api, models):
    made = [api.create_job(preset="digits-schedules").parsed.id for _ in range(5)]
    seen, after = [], models.job_page.UNSET
    while after is not None:
        page = api.list_jobs(limit=2, after=after, state=models.JobState.QUEUED).parsed
        assert isinstance(page, models.JobPage)
        seen, after = [*seen, *(job.id for job in page.data)], page.next_
    assert seen == made[::-1]


def test_a_job_is_cancelled_and_refuses_what_it_may_not(api, models):
    job = api.create_job(preset="digits-schedules").parsed
    cancelled = api.cancel_job(job.id)
    assert (cancelled.status_code, cancelled.parsed.state) == (202, models.JobState.CANCELLED)
    refused = api.pause_job(job.id).parsed
    assert isinstance(refused, models.Problem)
    assert (refused.status, refused.code) == (409, "state_conflict")
    assert refused["state"] == "cancelled"  # particulars of this kind of problem
    assert api.retry_job(job.id).parsed.state == models.JobState.QUEUED
    assert api.cancel_jobs(state=models.CancelJobsState.QUEUED).parsed.data == [job.id]
    assert api.delete_job(job.id).status_code == 204


def test_errors_are_problems_that_name_fields(api, models, client_of):
    body = models.JobRequest.from_dict(document())
    body.training.num_steps = 0
    wrong = api.create_job(body=body)
    assert wrong.status_code == 422
    assert isinstance(wrong.parsed, models.Problem)
    (error,) = wrong.parsed.errors
    assert (error.loc, error.msg) == (["training", "num_steps"], "must be greater than 0, not 0")
    assert api.get_job(uuid4()).parsed.code == "unknown_job"
    assert api.get_job(uuid4(), client=client_of("rg_" + "x" * 40)).parsed.code == "unauthorized"


def test_data_are_uploaded(api, models, generated):
    types = importlib.import_module(f"{PACKAGE}.types")
    content = io.BytesIO()
    labels = np.arange(40) % 2
    np.savez(content, inputs=np.linspace(0, 1, 80).reshape(40, 2), labels=labels)
    content.seek(0)
    file = types.File(payload=content, file_name="data.npz", mime_type="application/octet-stream")
    sent = api.upload_dataset(body=models.UploadDatasetBody(name="mine", file=file))
    assert sent.status_code == 201, sent.content
    assert isinstance(sent.parsed, models.DatasetPreview)
    assert (sent.parsed.class_counts, sent.parsed.inputs.shape) == ([20, 20], [40, 2])
    table = types.File(
        payload=io.BytesIO(b"a,price\n" + b"1,2.5\n3,4.5\n" * 5), file_name="t.csv", mime_type="text/csv"
    )
    columns = models.UploadDatasetBodyColumns(target="price")
    priced = api.upload_dataset(body=models.UploadDatasetBody(name="prices", file=table, columns=columns)).parsed
    assert (priced.target.mean, [column.name for column in priced.table.columns]) == (3.5, ["a", "price"])
    assert [one.id for one in api.list_datasets().parsed.data] == [priced.id, sent.parsed.id]
    assert api.get_dataset(priced.id).parsed == priced
    assert api.delete_dataset(priced.id).status_code == 204
    broken = types.File(
        payload=io.BytesIO(b"PK\x03\x04nonsense"), file_name="x.npz", mime_type="application/octet-stream"
    )
    assert (
        api.upload_dataset(body=models.UploadDatasetBody(name="no", file=broken)).parsed.code == "invalid_dataset"
    )


def test_what_was_found_is_read(api, models, sessions, http):
    job = api.create_job(body=models.JobRequest.from_dict(document())).parsed
    work(sessions, {"id": str(job.id)})
    page = api.list_iterations(job.id).parsed
    assert [type(one) for one in page.data] == [models.IterationRead] * 2
    assert [one.outer_loss for one in page.data] == [3.0, None]
    found = api.download_hyperparameters(job.id).parsed
    assert isinstance(found, models.ResultDocument)
    assert (found.iteration, found.state) == (1, models.JobState.SUCCEEDED)
    assert np.asarray(found.hyperparameters["step_size"].values).shape == (10, 2)
    assert found.certificate.exact
    assert found.losses["best"].measures["test_accuracy"] == 0.5
    curves = api.download_curves(job.id).parsed
    assert isinstance(curves, models.CurvesRead)
    assert curves.columns.outer_loss == [3.0, None]
    kinds = [event.kind for event in api.list_events(job.id).parsed.data]
    assert kinds[0] is models.EventKind.CREATED
    assert kinds[-1] is models.EventKind.SUCCEEDED
    figure = api.draw_figure(job.id, api.list_figures(job.id).parsed.data[0].name, models.DrawFigureForm.PNG)
    assert figure.parsed.payload.read(4) == b"\x89PNG"
    raw = http.get_httpx_client().get(f"/v1/jobs/{job.id}/hyperparameters", params={"format": "npz"})
    assert np.load(io.BytesIO(raw.content))["step_size"].shape == (10, 2)


def test_keys_project_and_health_are_read(api, models, client_of):
    made = api.create_key(body=models.KeyCreate(name="reader", scopes=[models.KeyScope.READ])).parsed
    assert isinstance(made, models.KeyCreated)
    refused = api.create_job(client=client_of(made.key), preset="digits-schedules").parsed
    assert (refused.code, refused["scope"]) == ("forbidden", "write")
    assert api.get_project().parsed.quotas["queued_jobs"].used == 0
    assert api.readyz().parsed.status == models.ReadinessStatus.OK
    assert api.healthz().parsed.status == "ok"


def test_it_may_be_awaited(api, http, models):
    job = api.create_job(preset="digits-schedules").parsed

    async def awaited():
        async with http as client:
            return await api.modules["get_job"].asyncio(job.id, client=client)

    assert isinstance(asyncio.run(awaited()), models.JobRead)


def test_the_page_on_it_is_right(generated, url, key, capsys):
    exec(compile(block("use"), "page", "exec"), {"url": url, "key": key})
    job_id, state = capsys.readouterr().out.split()
    assert (str(UUID(job_id)), state) == (job_id, "queued")


def test_what_the_generator_cannot_do_would_be_noticed(tmp_path):
    """The negative control: a default that is one of several schemas, as the document had it."""
    spoilt = json.loads(json.dumps(DOCUMENT))
    spoilt["components"]["schemas"]["ClassifierProblem"]["properties"]["loss"]["default"] = {
        "kind": "cross_entropy"
    }
    (tmp_path / "openapi.json").write_text(json.dumps(spoilt))
    command = [
        sys.executable,
        "-m",
        "openapi_python_client",
        "generate",
        "--path",
        "openapi.json",
        "--meta",
        "none",
    ]
    done = subprocess.run([*command, "--fail-on-warning"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "ClassifierProblem" in done.stdout + done.stderr
