"""Whatever is wrong with a request is answered 4xx, says where and what to do, and leaves nothing behind."""

import json
import math

import httpx
import pytest
from sqlalchemy import func, select

from core import presets
from core.store.models import Job, WakeUp
from core.store.session import close_store, open_store
from tests.api.problems import assert_problem
from tests.builders import document
from tests.conftest import fresh_settings, serving


@pytest.fixture(scope="module")
def settings(postgres, migrated, valkey):
    """One database for all tests here, as none may leave anything in it."""
    with fresh_settings(postgres, migrated, valkey) as settings:
        yield settings


@pytest.fixture(scope="module")
def service(settings):
    with serving(settings) as client:
        yield client


@pytest.fixture
def client(service):
    with httpx.Client(base_url=service.base_url, headers=service.headers) as client:
        yield client


@pytest.fixture(scope="module")
def sessions(settings):
    opened = open_store(settings.database_url)
    yield opened
    close_store(opened)


@pytest.fixture(autouse=True)
def nothing_is_created(sessions):
    yield
    with sessions() as session:
        for table in (Job, WakeUp):
            assert session.scalar(select(func.count()).select_from(table)) == 0


DATASET = "problem.dataset"

BAD_SPECS = {  # changes to a good one: (place of the error, what its message says)
    "unknown field": ({"trainning": {}}, ["trainning"], "did you mean 'training'"),
    "unknown nested field": ({"training.num_step": 3}, ["training", "num_step"], "did you mean 'num_steps'"),
    "unknown model field": ({"problem.model.hiden": [3]}, ["problem", "model", "hiden"], "did you mean 'hidden'"),
    "unlike any field": (
        {"meta.xyzzy": 1},
        ["meta", "xyzzy"],
        "unknown field; remove it, or use one of: clip, evaluation_seeds",
    ),
    "missing section": ({"training": ...}, ["training"], "required; add it"),
    "missing field": ({"training.num_steps": ...}, ["training", "num_steps"], "required; add it"),
    "missing part of the split": (
        {f"{DATASET}.split.test": ...},
        ["problem", "dataset", "split", "test"],
        "required",
    ),
    "text for a number": ({"training.num_steps": "many"}, ["training", "num_steps"], "integer"),
    "fraction for a number": ({"training.num_steps": 1.5}, ["training", "num_steps"], "integer"),
    "null": ({"training.num_steps": None}, ["training", "num_steps"], "must be a valid integer, not None"),
    "list for an object": ({"training": []}, ["training"], "must be a valid dictionary"),
    "object for a number": ({"training.num_steps": {"a": 1}}, ["training", "num_steps"], "integer"),
    "no steps": ({"training.num_steps": 0}, ["training", "num_steps"], "must be greater than 0, not 0"),
    "negative steps": ({"training.num_steps": -1}, ["training", "num_steps"], "greater than 0"),
    "absurdly many steps": (
        {"training.num_steps": 10**9},
        ["training", "num_steps"],
        "less than or equal to 1000000",
    ),
    "beyond 64 bits": ({"training.num_steps": 10**30}, ["training", "num_steps"], "less than or equal to 1000000"),
    "no batch": ({"training.batch_size": 0}, ["training", "batch_size"], "greater than 0"),
    "bad seed": ({"training.seed": "stale"}, ["training", "seed"], "must be 'fresh'"),
    "negative seed": ({"training.seed": -1}, ["training", "seed"], "greater than or equal to 0"),
    "deep nesting": ({"name": json.loads("[" * 900 + "]" * 900)}, ["name"], "must be a valid string, not [[[["),
    "unknown optimizer": (
        {"training.optimizer": "adamm"},
        ["training", "optimizer"],
        "'adam' or 'adamw', not 'adamm'",
    ),
    "no iterations": ({"meta.num_iterations": 0}, ["meta", "num_iterations"], "greater than 0"),
    "infinite step": ({"meta.step_size": math.inf}, ["meta", "step_size"], "finite number"),
    "step that is no number": ({"meta.step_size": math.nan}, ["meta", "step_size"], "finite number"),
    "digits in quotes": ({"training.num_steps": "100"}, ["training", "num_steps"], "valid integer"),
    "true for a number": ({"training.num_steps": True}, ["training", "num_steps"], "valid integer"),
    "split larger than the data": (
        {f"{DATASET}.split.train": 1700},
        ["problem", "dataset", "split"],
        "train + valid + test is 1900, but digits holds 1797 examples; lower them",
    ),
    "empty part of the split": (
        {f"{DATASET}.split.valid": 0},
        ["problem", "dataset", "split", "valid"],
        "greater than 0",
    ),
    "unknown data set": (
        {f"{DATASET}.name": "cifar"},
        ["problem", "dataset", "name"],
        "no data set 'cifar'; known: digits",
    ),
    "path for a data set": ({f"{DATASET}.name": "../../etc"}, ["problem", "dataset", "name"], "pattern"),
    "batch larger than the split": ({"training.batch_size": 201}, [], "training.batch_size 201 exceeds"),
    "momentum of one": (
        {"hyperparameters.momentum.initial": 1},
        ["hyperparameters", "momentum", "initial"],
        "less than 1",
    ),
    "negative momentum": (
        {"hyperparameters.momentum.initial": -0.1},
        ["hyperparameters", "momentum", "initial"],
        "greater than or equal to 0, not -0.1",
    ),
    "learned momentum of zero": (
        {"hyperparameters.momentum.initial": 0},
        ["hyperparameters", "momentum"],
        "start a learned decay inside (0, 1)",
    ),
    "log of zero": (
        {"hyperparameters.step_size.initial": 0},
        ["hyperparameters", "step_size"],
        "raise initial or use identity",
    ),
    "nothing to learn": (
        {"hyperparameters.step_size.learn": False, "hyperparameters.momentum.learn": False},
        ["hyperparameters"],
        "set learn to true",
    ),
    "unknown hyperparameter": (
        {"hyperparameters.stepsize": {}},
        ["hyperparameters", "stepsize"],
        "did you mean 'step_size'",
    ),
    "axis that it cannot have": (
        {"hyperparameters.step_size.per": ["weight"]},
        ["hyperparameters", "step_size", "per", 0],
        "must be 'step' or 'group'",
    ),
    "axis named twice": (
        {"hyperparameters.step_size.per": ["step", "step"]},
        ["hyperparameters", "step_size", "per"],
        "twice",
    ),
    "unknown model": (
        {"problem.model": {"kind": "rnn"}},
        ["problem", "model", "kind"],
        "no kind 'rnn' here; must be one of: logistic_regression, mlp, cnn, transformer",
    ),
    "model of no kind": (
        {"problem.model": {}},
        ["problem", "model", "kind"],
        "must be one of: logistic_regression, mlp",
    ),
    "layer too wide": (
        {"problem.model": {"kind": "mlp", "hidden": [10, 10_000]}},
        ["problem", "model", "hidden", 1],
        "less than or equal to 8192",
    ),
    "no layers": (
        {"problem.model": {"kind": "mlp", "hidden": []}},
        ["problem", "model", "hidden"],
        "at least 1 item",
    ),
    "unknown problem": (
        {"problem.kind": "ranking"},
        ["problem", "kind"],
        "no kind 'ranking' here; must be one of: classifier, regression, multitask, toy",
    ),
    "half a starting point": (
        {"problem": {"kind": "toy", "start": [0.5]}, "training.batch_size": ...},
        ["problem", "start", 1],
        "required; add it",
    ),
    "hyperparameter of another optimizer": (
        {"hyperparameters.b1": {"initial": 0.9}},
        [],
        "hyperparameters.b1 is read neither by sgd nor by a classifier problem; leave it out",
    ),
    "hyperparameter of another problem": (
        {"hyperparameters.task_mixing": {"learn": True}},
        [],
        "hyperparameters.task_mixing is read neither by sgd",
    ),
    "inputs of a data set": ({"hyperparameters.inputs": {"learn": True}}, [], "set problem.synthetic_examples"),
    "two ways to begin": (
        {"hyperparameters.initial_weights": {"learn": True}, "hyperparameters.init_scale": {"initial": 0.1}},
        [],
        "init_scale has no effect beside initial_weights",
    ),
    "more than all labels corrupted": (
        {f"{DATASET}.corrupted": 1.5},
        ["problem", "dataset", "corrupted"],
        "less than or equal to 1",
    ),
    "a scan of nothing": ({"kind": "scan"}, [], "kind 'scan' and the part `scan` belong together"),
    "a scan two ways": (
        {"kind": "scan", "scan": {"hyperparameter": "step_size", "values": [1.0], "num": 3}},
        ["scan"],
        "give either values, or start, stop and num",
    ),
    "half a grid": (
        {"kind": "scan", "scan": {"hyperparameter": "step_size", "start": 1.0}},
        ["scan"],
        "give either values, or start, stop and num",
    ),
    "a scan of what is fixed": (
        {"kind": "scan", "scan": {"hyperparameter": "l2", "values": [0.1]}},
        [],
        "scan.hyperparameter l2 is not differentiated; set its learn to true",
    ),
    "a scan beyond the domain": (
        {"kind": "scan", "scan": {"hyperparameter": "momentum", "values": [0.5, 1.0]}},
        [],
        "scan.values: momentum cannot be 1; give values inside (0, 1)",
    ),
    "a search of what is fixed": (
        {"meta.warm_start": {"trials": 3, "search": {"l2": {"low": 0.1, "high": 1.0}}}},
        [],
        "meta.warm_start.search: l2 is not learned",
    ),
    "a search backwards": (
        {"meta.warm_start": {"trials": 3, "search": {"step_size": {"low": 1.0, "high": 0.1}}}},
        ["meta", "warm_start", "search", "step_size"],
        "low 1 is not below high 0.1",
    ),
    "a search beyond the domain": (
        {"meta.warm_start": {"trials": 3, "search": {"step_size": {"low": 0.0, "high": 0.1}}}},
        [],
        "meta.warm_start.search: step_size cannot be 0; give values above 0",
    ),
    "momentum of Adam": ({"meta.momentum": 0.9}, ["meta"], "momentum is an option of sgd"),
    "corrupted labels that nothing trains on": (
        {f"{DATASET}.corrupted": 0.5, "problem.synthetic_examples": 100},
        [],
        "spoils labels that nothing trains on",
    ),
    "a search before no descent": (
        {
            "kind": "hypergradient",
            "meta.warm_start": {"trials": 3, "search": {"step_size": {"low": 0.1, "high": 1}}},
        },
        [],
        "hypergradient jobs have none",
    ),
    "one seed for many": ({"kind": "hypergradient", "training.seed": 3}, [], "set it to 'fresh'"),
    "made-up examples without end": (
        {"problem.synthetic_examples": 1_000_000, "training.batch_size": 10},
        ["hyperparameters", "inputs"],
        "64000000 values, more than 10000000",
    ),
    "a path of many weights": (
        {"diagnostics": {"every": 1, "path": True}},
        [],
        "only the toy problem has few enough",
    ),
    "name too long": ({"name": "x" * 201}, ["name"], "at most 200 characters"),
    "name with NUL": ({"name": "a\0b"}, ["name"], "cannot be seen"),
    "half a surrogate pair": ({"name": "\ud800"}, ["name"], "string"),
    "half a surrogate pair for a field": ({"\ud800": 1}, [], "unicode"),
    "NUL for a field": ({"\0": 1}, ["\0"], "unknown field"),
}


@pytest.mark.parametrize(("changes", "loc", "says"), BAD_SPECS.values(), ids=BAD_SPECS)
def test_a_bad_field_is_named_with_its_remedy(client, changes, loc, says):
    body = json.dumps(document(changes))
    answer = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    problem = assert_problem(answer, 422, "invalid_spec")
    messages = {tuple(error["loc"]): error["msg"] for error in problem["errors"]}
    assert set(messages) == {tuple(loc)}
    assert says in messages[tuple(loc)]
    assert says in problem["detail"]


def test_every_mistake_is_told_at_once(client):
    answer = client.post(
        "/v1/jobs", json=document({"training.num_steps": 0, "meta.num_iterations": 0, "engine": "x"})
    )
    problem = assert_problem(answer, 422, "invalid_spec")
    assert [error["loc"] for error in problem["errors"]] == [
        ["training", "num_steps"],
        ["meta", "num_iterations"],
        ["engine"],
    ]


def test_a_flood_of_mistakes_is_cut_short(client):
    answer = client.post("/v1/jobs", json={f"field {number}": 1 for number in range(10_000)})
    problem = assert_problem(answer, 422, "invalid_spec")
    assert len(problem["errors"]) == 21
    assert "more errors" in problem["errors"][-1]["msg"]
    assert len(answer.content) < 10_000


@pytest.mark.parametrize("body", ["[]", "1", '"text"', "null", "{}"])
def test_a_body_that_is_no_specification(client, body):
    answer = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert_problem(answer, 422, "invalid_spec")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{'a': 1}",
        b"\xff\xfe\x00",
        b'{"a": 1}}',
        b'{"name": "\n"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"1" + b"0" * 10_000,
    ],
)
def test_what_is_not_json_is_malformed(client, body):
    answer = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert_problem(answer, 400, "malformed_body")


def test_a_body_of_another_type_is_not_read(client):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        answer = client.post("/v1/jobs", content=json.dumps(document()), headers={"Content-Type": kind})
        problem = assert_problem(answer, 415, "unsupported_media_type")
        assert "application/json" in problem["detail"]


def test_a_body_declared_too_large_is_refused(client, settings):
    answer = client.post(
        "/v1/jobs", content=b" " * (settings.max_body_bytes + 1), headers={"Content-Type": "application/json"}
    )
    problem = assert_problem(answer, 413, "body_too_large")
    assert str(settings.max_body_bytes) in problem["detail"]


def test_a_body_of_undeclared_length_is_counted(client, settings):
    pieces = (b" " * (1 << 16) for _ in range(settings.max_body_bytes // (1 << 16) + 1))
    answer = client.post("/v1/jobs", content=pieces, headers={"Content-Type": "application/json"})
    assert_problem(answer, 413, "body_too_large")


def test_no_body_and_no_preset(client):
    problem = assert_problem(client.post("/v1/jobs"), 422, "invalid_spec")
    assert "?preset=" in problem["detail"]


def test_an_unknown_preset_is_named_with_the_known_ones(client):
    problem = assert_problem(client.post("/v1/jobs?preset=nope"), 422, "invalid_parameter")
    assert problem["errors"][0]["loc"] == ["query", "preset"]
    for name in presets.names():
        assert name in problem["detail"]
    assert_problem(client.get("/v1/presets/nope"), 404, "unknown_preset")


def test_a_preset_with_a_body_as_well(client):
    answer = client.post("/v1/jobs?preset=digits-schedules", json=document())
    assert_problem(answer, 422, "invalid_parameter")


def test_a_preset_whose_data_are_not_here(client):
    problem = assert_problem(client.post("/v1/jobs?preset=learning-rate-schedules"), 422, "invalid_spec")
    assert problem["errors"][0]["loc"] == ["problem", "dataset", "name"]
    assert "RETROGRAD_DATA" in problem["detail"]


def test_more_hyperparameters_than_allowed(settings):
    with serving(settings.model_copy(update={"max_hyperparameters": 20})) as client:
        problem = assert_problem(client.post("/v1/jobs", json=document()), 422, "invalid_spec")
    assert problem["errors"][0]["loc"] == ["hyperparameters"]
    assert "21 values to learn, more than 20" in problem["detail"]


def test_a_model_larger_than_allowed(settings):
    with serving(settings.model_copy(update={"max_parameters": 100})) as client:
        problem = assert_problem(client.post("/v1/jobs", json=document()), 422, "invalid_spec")
    assert problem["errors"][0]["loc"] == ["problem", "model", "hidden"]
    assert "parameters, more than 100" in problem["detail"]


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "rg_wrong", "Bearer rg_wrong", "Bearer rg_" + "A" * 43, "Basic cmc6", "Bearer \xe9"],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/jobs"),
        ("GET", "/v1/jobs"),
        ("GET", "/v1/jobs/00000000-0000-0000-0000-000000000000"),
        ("GET", "/v1/presets"),
        ("GET", "/v1/problem-kinds"),
    ],
)
def test_without_a_good_key_nothing_is_done(client, header, method, path):
    del client.headers["Authorization"]
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    answer = client.request(method, path, headers=headers, json=document() if method == "POST" else None)
    problem = assert_problem(answer, 401, "unauthorized")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert "Authorization: Bearer rg_" in problem["detail"]


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("state=lost", "state"),
        ("preset=%00", "preset"),
    ],
)
def test_a_bad_query_names_its_parameter(client, query, name):
    problem = assert_problem(client.get(f"/v1/jobs?{query}"), 422, "invalid_parameter")
    assert problem["errors"][0]["loc"] == ["query", name]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("stat=queued", "stat: unknown parameter; did you mean state?"),
        ("xyzzy=1", "xyzzy: unknown parameter; known here: preset, state"),
        ("state=queued&state=paused", "state: given 2 times; give it once"),
        ("%00=", "unknown parameter"),
    ],
)
def test_a_parameter_that_is_unknown_or_given_twice(client, query, says):
    problem = assert_problem(client.post(f"/v1/jobs/cancel?{query}"), 422, "invalid_parameter")
    assert says in problem["detail"]


@pytest.mark.parametrize("number", ["+7", "%2B7", "%207", "1_0", "٧"])
def test_whole_numbers_are_digits(client, number):
    problem = assert_problem(client.get(f"/v1/jobs?limit={number}"), 422, "invalid_parameter")
    assert "limit: write whole numbers in digits alone" in problem["detail"]


def test_what_need_not_be_a_number_may_look_like_one(client):
    assert client.get("/v1/jobs?search=1_0&limit=7").status_code == 200


def test_a_bad_cursor(client):
    problem = assert_problem(client.get("/v1/jobs?after=x"), 422, "invalid_cursor")
    assert "after" in problem["detail"]


@pytest.mark.parametrize("path", ["/v2/jobs", "/v1/jobs/not-an-id", "/v1/jobs/not-an-id/iterations"])
def test_nothing_there(client, path):
    assert_problem(client.get(path), 404, "not_found")


@pytest.mark.parametrize(("path", "methods"), [("/v1/jobs", "GET, POST"), ("/v1/jobs/cancel", "POST")])
def test_a_method_that_is_not_there(client, path, methods):
    answer = client.put(path, json=document())
    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == methods
