"""Jobs about programs: their specification without JAX, and what learning them leads to."""

import dataclasses
import io

import jax
import numpy as np
import pytest
from pydantic import ValidationError

from core import hypergradient, problem_of, sgd
from core.datasets import GivenData
from core.errors import InvalidProgram, InvalidSpec
from core.hyperparameters import Group, count_learned, layouts_of
from core.learning import Learner
from core.own_problems import GivenOwn, fetched
from core.programs import archive
from core.programs.fitting import check_data, check_fits
from core.programs.manifest import read_manifest
from core.shapes import groups_for
from core.spec import JobSpec
from core.storage import open_storage
from tests.programs import recurrent
from tests.programs.recurrent import STEPS, flat

PROGRAM, DATA = "pr_" + "0" * 24, {"train": "ds_" + "1" * 24, "valid": "ds_" + "2" * 24}


def spec(**changes):
    document = {
        "problem": {"kind": "program", "id": PROGRAM, "data": DATA},
        "training": {"optimizer": "sgd", "num_steps": STEPS, "seed": 0},
        "meta": {"num_iterations": 3, "step_size": 0.1, "evaluation_seeds": 2},
    }
    for path, value in changes.items():
        part, _, name = path.partition("__")
        document[part] = document.get(part, {}) | {name: value} if name else value
    return JobSpec.model_validate(document)


@pytest.fixture(scope="module")
def given(case, exported):
    """The program with its data, as a worker has them."""
    data = {
        name: GivenData(np.asarray(arrays["inputs"]), np.asarray(arrays["labels"]), name[0] * 64)
        for name, arrays in case.data.items()
    }
    return GivenOwn(exported, data)


def learner(given, **changes):
    return Learner.from_spec(spec(**changes), given=given)


@pytest.mark.slow
def test_a_job_learns_what_the_program_learns_natively(case, exported, given):
    job = learner(given)
    before = job.evaluate(job.initial())
    *_, last = records = list(job.run())
    after = job.evaluate(last.checkpoint.values)
    assert after.losses.outer < before.losses.outer
    assert np.isnan(after.losses.train)
    assert 0 <= after.measures["valid_accuracy"] <= 1
    assert all(record.certificate["exact"] for record in records)
    problem = problem_of(exported, case.data)
    key = jax.random.fold_in(jax.random.key(0), 0)
    found = hypergradient(problem, flat(case.hyper), optimizer=sgd(), num_steps=STEPS, key=key)
    assert records[0].losses.outer == float(found.value)
    native = hypergradient(case.native, case.hyper, optimizer=sgd(), num_steps=STEPS, key=key)
    norm = np.sqrt(sum(float(np.sum(np.square(leaf))) for leaf in jax.tree.leaves(native.gradient)))
    assert records[0].hypergradient_norm == pytest.approx(norm, rel=1e-12)
    assert job.provenance()["dataset_sha256"]


@pytest.mark.slow
def test_a_job_goes_on_from_a_checkpoint_with_the_same_bits(given):
    whole = [record.checkpoint.values for record in learner(given).run()]
    job = learner(given)
    first = next(job.run())
    resumed = [record.checkpoint.values for record in learner(given).run(first.checkpoint)]
    for one, other in zip(whole[1:], resumed, strict=True):
        assert all(one[name].tobytes() == other[name].tobytes() for name in one)


@pytest.mark.slow
def test_a_job_that_learns_some_leaves_from_elsewhere(given, case):
    job = learner(given, problem__learn=["momentum", "log_step_size"], problem__initial={"log_step_size": -2.0})
    start = job.initial()
    assert set(start) == {"momentum", "log_step_size"}
    assert np.array_equal(start["log_step_size"], np.full((STEPS, 3), -2.0))
    assert np.array_equal(start["momentum"], np.asarray(case.hyper["momentum"]))
    *_, last = job.run()
    assert set(last.checkpoint.values) == set(start)
    assert not job.layouts["output_start"].learn


@pytest.mark.slow
def test_a_job_with_other_kinds_engines_and_diagnostics(given):
    hypers = learner(given, kind="hypergradient", seeds__count=2, training__seed="fresh")
    assert len(list(hypers.run())) == 2
    unrolled = learner(given, engine="unrolled", meta__num_iterations=1, meta__seeds_per_iteration=2)
    assert next(unrolled.run()).certificate["engine"] == "unrolled"
    diagnostics = {"every": 1, "adjoint_growth": True, "finite_differences": 1, "naive_reversal": True}
    measured = learner(given, meta__num_iterations=1, diagnostics=diagnostics)
    assert set(next(measured.run()).diagnostics) >= {"adjoint_growth", "finite_differences", "naive_reversal"}
    stretches = learner(given, training__checkpoints=2, meta__num_iterations=1)
    assert next(stretches.run()).certificate["exact"]


@pytest.mark.slow
def test_a_job_is_planned(given):
    assert {one.name for one in learner(given).plan().predictions} >= {"reversible", "unrolled"}


def test_sizes_and_shapes_without_the_program(exported):
    manifest = read_manifest(io.BytesIO(exported))
    groups = groups_for(spec(), own=tuple(Group(leaf.name, leaf.shape) for leaf in manifest.params))
    assert [(group.name, group.shape) for group in groups] == [
        ("hidden", (6, 6)),
        ("inputs", (3, 6)),
        ("output", (6, 1)),
    ]
    pinned = spec(problem__learn=["momentum"]).pinned_own(
        manifest.shapes, dict.fromkeys(DATA, "1" * 64), sha256="0" * 64
    )
    layouts = layouts_of(JobSpec.model_validate(pinned.model_dump(mode="json")), groups)
    assert count_learned(layouts) == STEPS
    assert layouts["log_step_size"].axes == ("axis_0", "axis_1")
    assert layouts["momentum"].start.described() == {"as": "exported"}


def test_the_digest_of_a_pinned_job_says_nothing_of_ids():
    shapes, digests = {"a": ()}, dict.fromkeys(DATA, "1" * 64)
    pinned = spec().pinned_own(shapes, digests, sha256="0" * 64)
    other = spec(problem__id="pr_" + "9" * 24, problem__data=dict.fromkeys(DATA, "ds_" + "8" * 24))
    assert other.pinned_own(shapes, digests, sha256="0" * 64).sha256() == pinned.sha256()
    assert spec().pinned_own(shapes, digests, sha256="1" * 64).sha256() != pinned.sha256()
    assert spec(problem__learn=["a"]).pinned_own(shapes, digests, sha256="0" * 64).sha256() != pinned.sha256()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hyperparameters": {"step_size": {"learn": True}}}, "this problem has its own"),
        ({"training__batch_size": 10}, "training.batch_size"),
        ({"training__dtype": "float64"}, "training.dtype has no effect"),
        ({"kind": "scan", "scan": {"hyperparameter": "l2", "values": [1.0]}}, "kind 'scan'"),
        (
            {"meta__warm_start": {"trials": 1, "search": {"l2": {"low": 0.1, "high": 1.0}}}},
            "meta.warm_start searches",
        ),
        ({"problem__id": "ds_" + "0" * 24}, "pattern"),
        ({"problem__learn": []}, "at least 1"),
        ({"problem__learn": ["a", "a"]}, "twice"),
        ({"problem__learn": ["../a"]}, "pattern"),
        ({"problem__initial": {"a": [1.0] * 200_000}}, "more than 100000"),
        ({"problem__initial": {"a": float("inf")}}, "finite"),
        ({"diagnostics": {"every": 1, "path": True}}, "diagnostics.path"),
    ],
)
def test_what_a_specification_cannot_ask_of_a_program(changes, said):
    with pytest.raises(ValidationError) as caught:
        spec(**changes)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "where", "said"),
    [
        ({"training__num_steps": 7}, "training.num_steps", "exported for 20 steps, not 7"),
        ({"training__optimizer": "adam"}, "training.optimizer", "choose sgd or heavy_ball or nesterov or rmsprop"),
        ({"problem__learn": ["log_l3"]}, "problem.learn", "no hyperparameter 'log_l3'; it has log_l2.hidden"),
        ({"problem__initial": {"momentum": [1.0, 2.0]}}, "problem.initial.momentum", "[20]"),
        ({"problem__initial": {"momentum": [[1.0], [1.0, 2.0]]}}, "problem.initial.momentum", "[20]"),
        ({"problem__data": {}}, "problem.data", "data named train, valid"),
    ],
)
def test_a_job_that_does_not_fit_its_program(exported, changes, where, said):
    with pytest.raises(InvalidSpec) as caught:
        check_fits(spec(**changes), read_manifest(io.BytesIO(exported)))
    assert f"{where}: " in str(caught.value)
    assert said in str(caught.value)


def test_data_that_do_not_fit_the_program(exported):
    manifest = read_manifest(io.BytesIO(exported))
    shape = (recurrent.EXAMPLES, recurrent.LENGTH, recurrent.FEATURES)
    fitting = {"inputs": (shape, "float32"), "labels": (shape[:1], "int32")}
    check_data("train", manifest, fitting)
    check_data("train", manifest, fitting | {"inputs": (shape, "uint8")})
    check_data("train", manifest, fitting | {"inputs": ((shape[0], shape[1] * shape[2]), "float64")})
    for wrong in (
        {"inputs": ((7, 5, 3), "float32")},
        {"labels": (shape[:1], "float32")},
        {"inputs": (shape[::-1], "float32")},
    ):
        with pytest.raises(InvalidSpec, match="problem.data.train"):
            check_data("train", manifest, fitting | wrong)


def test_programs_and_data_that_are_not_the_ones_of_the_job(given, exported):
    job = spec().pinned_own({}, dict.fromkeys(DATA, "1" * 64), sha256="0" * 64)
    with pytest.raises(InvalidSpec, match="problem.sha256"):
        Learner.from_spec(job, given=given)
    digest = archive.read(exported).sha256
    with pytest.raises(InvalidSpec, match="problem.data"):
        Learner.from_spec(spec().pinned_own({}, dict.fromkeys(DATA, "1" * 64), sha256=digest), given=given)
    with pytest.raises(InvalidSpec, match="problem.id"):
        Learner.from_spec(spec())
    with pytest.raises(InvalidProgram):
        Learner.from_spec(spec(), given=dataclasses.replace(given, program=exported[:100]))


def test_a_program_and_its_data_are_fetched_by_their_digests(tmp_path, case, exported, given):
    from core.config import Settings

    storage = open_storage(Settings(database_url="postgresql+psycopg://none", storage_url=str(tmp_path / "blobs")))
    digests = {}
    for name, arrays in case.data.items():
        file = io.BytesIO()
        for array in (arrays["inputs"], arrays["labels"]):
            np.lib.format.write_array(file, np.asarray(array))
        digests[name] = stored(storage, file)
    digest = stored(storage, io.BytesIO(exported))
    found = fetched(spec().pinned_own({}, digests, sha256=digest), storage.opened)
    assert found.program == exported
    assert {name: one.sha256 for name, one in found.data.items()} == digests
    assert np.array_equal(found.data["train"].inputs, given.data["train"].inputs)
    with pytest.raises(InvalidSpec, match="problem.sha256"):
        fetched(spec(), storage.opened)


def stored(storage, file):
    import hashlib

    digest = hashlib.sha256(file.getvalue()).hexdigest()
    storage.put(file, digest)
    return digest
