"""Kinds of problems that packages bring: listed, described, refused, and learned from as by hand."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import Problem, hypergradient, plugins, sgd
from core.datasets import GivenData
from core.errors import InvalidSpec, PluginFailed
from core.learning import Learner
from core.own_problems import GivenOwn
from core.spec import JobSpec
from tests.api.problems import assert_problem

KIND = """
import numpy as np
from pydantic import BaseModel
from retrograd import ProblemKind

class Kind(ProblemKind):
    "Pull weights towards a point."
    class Settings(BaseModel):
        size: int
        {settings}

    def params(self, asked):
        if asked.settings.size > 9:
            raise ValueError("size is above 9; lower it")
        {params}
        return {{"w": (asked.settings.size,)}}

    def hyper(self, asked):
        return {{"log_step_size": np.full(asked.num_steps, -1.0), "point": 2.0}}

    def problem(self, asked, data):
        import jax.numpy as jnp
        from retrograd import Problem
        def init(hyper, key):
            {init}
            return {{"w": jnp.zeros(asked.settings.size)}}
        def inner(params, hyper, step, key):
            {inner}
            return jnp.sum(jnp.square(params["w"] - hyper["point"]))
        def outer(params, hyper, key):
            return jnp.sum(jnp.square(params["w"] - 1.0))
        return Problem(init, inner, outer, lambda hyper: {{"step_size": jnp.exp(hyper["log_step_size"]), "momentum": 0.5}})

    def metrics(self, asked, data):
        return lambda params, hyper, key: {{"largest": params["w"].max()}}
"""
BODY = dict.fromkeys(("settings", "params", "init", "inner"), "pass")
STEPS = 6
JSON = {"Content-Type": "application/json"}


def kind(**bodies):
    return KIND.format(**BODY | bodies)


def spec(name="pull", settings=None, **problem):
    named = {"kind": "plugin", "name": name, "settings": {"size": 3} if settings is None else settings, **problem}
    training = {"optimizer": "sgd", "num_steps": STEPS}
    return JobSpec.model_validate({"problem": named, "training": training, "meta": {"num_iterations": 2}})


@pytest.fixture
def pull(installed):
    installed("pulling", "1.2", {"pull": "pull:Kind"}, {"pull": kind()})


def by_hand(point=2.0):
    return Problem(
        lambda hyper, key: {"w": jnp.zeros(3)},
        lambda params, hyper, step, key: jnp.sum(jnp.square(params["w"] - hyper.get("point", point))),
        lambda params, hyper, key: jnp.sum(jnp.square(params["w"] - 1.0)),
        lambda hyper: {"step_size": jnp.exp(hyper["log_step_size"]), "momentum": 0.5},
    )


@pytest.mark.parametrize("learn", [None, ["log_step_size"]])
def test_its_hypergradient_is_that_of_the_same_functions_by_hand(pull, learn):
    learner = Learner.from_spec(spec(learn=learn))
    first = next(learner.run())
    initial = learner.initial()
    wanted = hypergradient(by_hand(), initial, optimizer=sgd(), num_steps=STEPS, key=jax.random.key(0))
    assert first.certificate["exact"]
    assert initial.keys() == ({"log_step_size", "point"} if learn is None else set(learn))
    assert first.losses.outer == float(wanted.value)
    assert first.hypergradient_norm == pytest.approx(
        float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(wanted.gradient)))), rel=1e-15
    )


def test_what_is_not_learned_stays_where_the_job_puts_it(pull):
    learner = Learner.from_spec(spec(learn=["log_step_size"], initial={"point": 5.0, "log_step_size": -2.0}))
    assert (learner.initial()["log_step_size"] == -2).all()
    wanted = hypergradient(
        by_hand(5.0), learner.initial(), optimizer=sgd(), num_steps=STEPS, key=jax.random.key(0)
    )
    assert next(learner.run()).losses.outer == float(wanted.value)


def test_measures_are_its_metrics(pull):
    found = Learner.from_spec(spec()).evaluate(Learner.from_spec(spec()).initial())
    assert found.measures.keys() == {"largest"}


def test_a_job_is_about_one_version(pull):
    plugins.describe(spec(version="1.2"), {})
    with pytest.raises(
        InvalidSpec, match=r"problem\.version: the job is about 1\.1, and pulling 1\.2 is installed"
    ):
        plugins.describe(spec(version="1.1"), {})


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"name": "push"}, r"problem\.name: no problem kind 'push' is installed; there is pull"),
        ({"settings": {}}, r"problem\.settings\.size: Field required"),
        ({"settings": {"size": "many"}}, r"problem\.settings\.size: .*integer"),
        ({"settings": {"size": 3, "depth": 1}}, r"problem\.settings\.depth: Extra inputs are not permitted"),
        ({"settings": {"size": 12}}, r"problem\.settings: pull says: size is above 9; lower it"),
        ({"learn": ["speed"]}, r"problem\.learn: .*no hyperparameter 'speed'; it has log_step_size, point"),
        ({"initial": {"point": [1.0, 2.0]}}, r"problem\.initial\.point: has another shape"),
    ],
)
def test_what_the_kind_does_not_take_is_refused_by_the_name_of_the_field(pull, asked, said):
    with pytest.raises(InvalidSpec, match=said):
        plugins.describe(spec(**asked), {})


def test_data_that_it_does_not_take_are_refused(pull):
    given = {"train": GivenData(np.zeros((4, 2)), np.zeros(4, np.int64), "0" * 64)}
    about = spec(data={"train": "ds_" + "0" * 24})
    with pytest.raises(InvalidSpec, match=r"problem\.data: pull takes data named none"):
        Learner.from_spec(about, given=GivenOwn(data=given))
    with pytest.raises(InvalidSpec, match=r"problem\.data: the data given are others"):
        Learner.from_spec(about)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"params": "return {'w': None}"}, "TypeError"),
        ({"params": "return {}"}, "params names no parameter"),
        ({"params": "return {'not a name': (1,)}"}, "letters, digits"),
        ({"init": "return {'w': jnp.zeros(2)}"}, r"init returns w \[2\], and params has announced w \[3\]"),
        ({"init": "raise KeyError('lost')"}, "KeyError: 'lost'"),
        ({"params": "raise SystemExit(3)"}, "SystemExit: 3"),
        ({"init": "raise SystemExit(3)"}, "SystemExit: 3"),
        ({"params": "raise KeyError(chr(0xD800))"}, "KeyError"),
    ],
)
def test_what_breaks_in_the_package_is_blamed_on_it(installed, body, said):
    installed("broken", "0.1", {"pull": "broken_kind:Kind"}, {"broken_kind": kind(**body)})
    with pytest.raises(PluginFailed, match=rf"'pull' of the package broken 0\.1 failed: .*{said}"):
        Learner.from_spec(spec())


def test_a_loss_that_breaks_is_no_mistake_in_the_settings(installed):
    body = kind(inner="jnp.zeros(2) + jnp.zeros(3)")  # a ValueError or TypeError of JAX
    installed("broken", "0.1", {"pull": "broken_loss:Kind"}, {"broken_loss": body})
    with pytest.raises(PluginFailed, match="broken 0\\.1 failed"):
        next(Learner.from_spec(spec()).run())


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("import no_such_module", "ModuleNotFoundError"),
        ("Kind = 3", "TypeError: bad_module:Kind is no ProblemKind; have it derive from retrograd.ProblemKind"),
        ("raise SystemError('so there')", "SystemError: so there"),
    ],
)
def test_one_that_cannot_be_loaded_is_listed_with_the_reason(installed, client, module, said):
    installed("bad", "3", {"bad": "bad_module:Kind"}, {"bad_module": module})
    listed = client.get("/v1/problem-kinds").json()["data"]
    (bad,) = (one for one in listed if one["name"] == "bad")
    assert (bad["package"], bad["version"], bad["schema"]) == ("bad", "3", None)
    assert said in bad["error"]
    document = spec(name="bad").model_dump(mode="json", exclude_unset=True)
    found = assert_problem(client.post("/v1/jobs", json=document), 500, "plugin_failed")
    assert said in found["detail"]


def test_two_packages_that_bring_the_same_are_both_refused(installed):
    installed("one", "1", {"pull": "one_kind:Kind"}, {"one_kind": kind()})
    installed("two", "1", {"pull": "two_kind:Kind"}, {"two_kind": kind()})
    with pytest.raises(PluginFailed, match="one and two both bring it; uninstall one"):
        plugins.describe(spec(), {})


def test_kinds_are_listed_with_the_schema_of_their_jobs(pull, client, command):
    listed = client.get("/v1/problem-kinds").json()["data"]
    assert [one["kind"] for one in listed] == [
        "classifier", "regression", "multitask", "toy", "program", "plugin"
    ]  # fmt: skip
    schema = listed[-1]["schema"]
    assert schema["properties"]["name"]["const"] == "pull"
    assert "settings" in schema["required"]
    assert schema["$defs"]["Settings"]["properties"]["size"]["type"] == "integer"
    assert listed[-1]["description"] == "Pull weights towards a point."
    shown = command("kinds")
    assert shown.exit_code == 0
    assert "pulling 1.2" in shown.output


def test_a_job_is_taken_with_the_version_that_it_is_about(pull, client):
    asked = spec().model_dump(mode="json", exclude_unset=True)
    answer = client.post("/v1/jobs", json=asked)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    problem = job["spec"]["problem"]
    assert (problem["version"], problem["shapes"]) == ("1.2", {"log_step_size": [STEPS], "point": []})
    assert job["spec_sha256"] == JobSpec.model_validate(job["spec"]).sha256()
    assert_problem(
        client.post("/v1/jobs", json=spec(settings={"size": 10}).model_dump(mode="json")), 422, "invalid_spec"
    )


DEEP = json.loads("[" * 40 + "]" * 40)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"text": "a\0b"}, "NUL"),
        ({"text": "\ud800"}, "surrogate"),
        ({"text": "x" * 70_000}, "longer than 65536"),
        ({"deep": DEEP}, "nested"),
        ({"large": 10**40}, "give it as text"),
        ({"large": 10**400}, "give it as text"),
        ({"large": 1e300}, "finite numbers, up to"),
    ],
)
def test_settings_that_cannot_be_kept_are_refused(client, asked, said):
    document = spec().model_dump(mode="json", exclude_unset=True)
    document["problem"]["settings"] = asked
    found = assert_problem(
        client.post("/v1/jobs", content=json.dumps(document), headers=JSON), 422, "invalid_spec"
    )
    assert said in found["detail"]


def test_settings_are_what_a_database_gives_back():
    kept = spec(settings={"size": 3.0, "share": 0.5, "list": [-0.0, True, None, "1"]}).problem.settings
    assert json.dumps(kept) == '{"size": 3, "share": 0.5, "list": [0, true, null, "1"]}'


def test_describing_a_kind_loads_no_jax(pull, tmp_path):
    program = (
        "import sys; from core import plugins; from core.spec import JobSpec; "
        f"spec = JobSpec.model_validate({spec().model_dump(mode='json', exclude_unset=True)!r}); "
        "print(len(plugins.describe(spec, {}).groups), 'jax' in sys.modules)"
    )
    environ = {**os.environ, "PYTHONPATH": str(tmp_path / "packages")}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == "1 False\n"
