"""Tables over HTTP and from the command line: roles, previews, errors, and jobs about them."""

import json

import numpy as np
import pytest

from tests.api.problems import assert_problem
from tests.builders import document, eventually
from tests.conftest import running, serving
from tests.uploads import making, tabular

ROLES = tabular.ROLES | {"ignored": ["note"]}
SPLIT = {"train": 20, "valid": 10, "test": 10}


@pytest.fixture
def post(client):
    def post(content, columns, name="mine", **fields):
        given = (
            {} if columns is None else {"columns": columns if isinstance(columns, str) else json.dumps(columns)}
        )
        return client.post(
            "/v1/datasets", data={"name": name, **given, **fields}, files={"file": ("file", content)}
        )

    return post


def table(kind="csv"):
    return {"csv": tabular.as_csv, "parquet": tabular.as_parquet}[kind](tabular.columns(np.random.default_rng(0)))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_is_uploaded_and_looked_at(client, post, kind):
    answer = post(table(kind), ROLES)
    assert answer.status_code == 201, answer.text
    found = answer.json()
    assert client.get(answer.headers["Location"]).json() == found
    assert found["inputs"] == {"shape": [40, 6], "dtype": "float64"}
    assert (sum(found["class_counts"]), len(found["class_counts"]), found["target"]) == (40, 3, None)
    told = found["table"]
    assert told["classes"] == ["cat", "dog", "emu"]
    assert [column["name"] for column in told["columns"]] == ["length", "count", "town", "note", "species"]
    assert [column["role"] for column in told["columns"]] == ["feature"] * 3 + ["ignored", "target"]
    values = [one["value"] for one in told["columns"][2]["categories"]]
    assert values == sorted(values)
    assert len(values) == 4
    assert told["num_columns"] == 5
    assert [len(row) for row in told["rows"]] == [5] * 5
    (listed,) = client.get("/v1/datasets").json()["data"]
    assert listed == {name: value for name, value in found.items() if name != "table"}
    assert post(table(kind), ROLES).status_code == 200


def test_targets_are_summed_up(post):
    columns = tabular.columns(np.random.default_rng(0))
    found = post(tabular.as_csv(columns), {"target": "length", "features": ["count"]}).json()
    assert (found["class_counts"], found["labels"]["dtype"]) == ([], "float64")
    assert found["target"]["mean"] == pytest.approx(columns["length"].mean())
    assert found["target"]["deviation"] == pytest.approx(columns["length"].std())
    assert (found["target"]["min"], found["target"]["max"]) == (columns["length"].min(), columns["length"].max())


@pytest.mark.parametrize(
    ("content", "columns", "says"),
    [
        (b"x,y\n1,0\n2\n", {"target": "y"}, "row 2 (line 3) has 1 values"),
        (b"x,y\n1,0\ntwo,1\n", {"target": "y"}, "row 2 (line 3), column 'x': 'two' is not a number"),
        (b"x,y\n1,0\n,1\n", {"target": "y"}, "row 2 (line 3), column 'x': is missing"),
        (b"x,y\n1,0\n2,0\n", {"target": "y"}, "column 'y' is '0' in every row"),
        (b"x,y\n1,0\n2,1\n", {"target": "z"}, "columns.target: there is no column 'z'; there are 'x', 'y'"),
        (b"x,y\n1,0\n2,1\n", "{", "columns: Invalid JSON"),
        (b"x,y\n1,0\n2,1\n", '{"target": "y", "colour": 1}', "columns.colour: Extra inputs"),
        (b"PAR1" + bytes(50), {"target": "y"}, "does not end as a Parquet file"),
        (b"PAR1" + bytes(50), None, "columns: a table needs them"),
        (making.npz(**making.arrays(np.random.default_rng(0))), {"target": "y"}, "columns: npz files have none"),
    ],
)
def test_what_is_wrong_is_answered_with_its_place(post, content, columns, says):
    problem = assert_problem(post(content, columns), 422, "invalid_dataset")
    assert says in problem["detail"]


def test_a_table_without_roles_is_told_of_them(post):
    assert "with `columns`" in assert_problem(post(b"x,y\n1,0\n", None), 415, "unsupported_media_type")["detail"]
    problem = assert_problem(post(b"x,y\n1,0\n", None, kind="csv"), 422, "invalid_dataset")
    assert 'columns: a table needs them; send such as {"target": "price"}' in problem["detail"]


def test_roles_are_bounded(post):
    answer = post(b"x,y\n1,0\n", json.dumps({"target": "y", "ignored": ["x" * 90] * 1000}))
    assert answer.status_code in (400, 413, 422)


def job(dataset_id, **changes):
    changed = {"problem.dataset": {"id": dataset_id, "split": SPLIT}, "training.batch_size": 12} | changes
    return document(changed)


def test_jobs_are_checked_against_what_the_table_holds(client, post):
    classes = post(table(), ROLES).json()["id"]
    numbers = post(table(), {"target": "length", "features": ["count"]}, name="numbers").json()["id"]
    for dataset, changes, loc, says in (
        (classes, {"problem.kind": "regression"}, ["problem", "kind"], "holds classes and no targets"),
        (numbers, {}, ["problem", "kind"], "fit it by kind 'regression'"),
        (classes, {"problem.model": {"kind": "cnn"}}, ["problem", "model"], "has 6 features in a row"),
        (
            classes,
            {"training.batches": "balanced", "training.batch_size": 10},
            ["training", "batch_size"],
            "10 is no multiple of the 3 classes",
        ),
    ):
        problem = assert_problem(client.post("/v1/jobs", json=job(dataset, **changes)), 422, "invalid_spec")
        assert problem["errors"][0]["loc"] == loc
        assert says in problem["detail"]
    balanced = {"training.batches": "balanced", "problem.model": {"kind": "transformer", "width": 8, "blocks": 1}}
    assert client.post("/v1/jobs", json=job(classes, **balanced)).status_code == 202
    fitted = client.post("/v1/jobs", json=job(numbers, **{"problem.kind": "regression"}))
    assert fitted.status_code == 202, fitted.text
    assert fitted.json()["spec"]["problem"]["loss"] == {"kind": "squared"}


@pytest.mark.slow
def test_a_regression_on_a_table_is_learned_by_a_worker(settings, tmp_path):
    """Through API, storage, janitor and worker."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(400, 3)) * [1, 10, 100]
    price = 5000 + inputs @ [900, 20, 3] + rng.normal(size=400)
    content = tabular.as_csv({"a": inputs[:, 0], "b": inputs[:, 1], "c": inputs[:, 2], "price": price})
    settings = settings.model_copy(update={"janitor_seconds": 0.3})
    folders = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "jax"), "XDG_CACHE_HOME": str(tmp_path)}
    with (
        serving(settings) as client,
        running("worker.janitor", settings, tmp_path / "janitor.log"),
        running("worker", settings, tmp_path / "worker.log", **folders),
    ):
        sent = {"name": "houses", "columns": json.dumps({"target": "price"})}
        dataset = client.post("/v1/datasets", data=sent, files={"file": content}).json()
        split = {"train": 200, "valid": 100, "test": 100}
        wanted = {
            "problem.kind": "regression",
            "problem.dataset": {"id": dataset["id"], "split": split, "standardise": "all"},
            "training.num_steps": 40,
            "training.batch_size": ...,
        }
        answer = client.post("/v1/jobs", json=document(wanted))
        assert answer.status_code == 202, answer.text

        def ended():
            job = client.get(f"/v1/jobs/{answer.json()['id']}").json()
            return job if job["state"] in ("succeeded", "failed") else None

        job = eventually(ended, 200)
        assert job["state"] == "succeeded", job
        assert job["certificate"]["exact"]
        measures = job["losses"]["best"]["measures"]
        assert measures["test_r2"] > 0.99
        assert measures["test_rmse"] < 100  # of prices, whose deviation is 1000
