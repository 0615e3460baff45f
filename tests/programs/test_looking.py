"""What is refused by looking at a program, before anything of it is compiled or run."""

import io
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from core.errors import InvalidProblem, InvalidProgram
from core.programs import archive, running
from core.programs.entries import HYPER, MANIFEST
from core.programs.looking import contents, looked_at
from core.programs.manifest import read_manifest
from core.programs.operations import CALLS
from tests.programs import forging, recurrent


@pytest.fixture(scope="module")
def small():
    """A program with two parameters, whose functions are a few operations each."""
    functions = {
        "init": lambda hyper, key: {"w": hyper["start"].astype(jnp.float32)},
        "schedule": lambda hyper: {"step_size": 0.1, "momentum": 0.5},
    }
    made = recurrent.Case(functions, {"start": jnp.ones((2, 2))}, {})
    return made.export(
        inner_loss=lambda params, hyper, step, key: jnp.sum(jnp.square(params["w"])),
        outer_loss=lambda params, hyper, key: jnp.sum(params["w"]),
        data=None,
        metrics=None,
    )


def refused(program, *said):
    """The message with which a program is refused."""
    with pytest.raises(InvalidProgram) as caught:
        looked_at(archive.read(program))
    for one in said:
        assert one in str(caught.value)
    with pytest.raises(InvalidProgram):  # a worker looks as well
        running.load(program)
    return str(caught.value)


def test_what_is_exported_is_let_through(small, exported):
    assert set(looked_at(archive.read(small))) >= {"init", "inner_product", "schedule_fixed"}
    found = contents(archive.read(exported))
    assert "stablehlo.while" in found["inner_gradient"][1].operations
    assert {call for _, made_of in found.values() for call in made_of.calls} == set()


def test_equal_problems_are_equal_bytes(case, exported):
    assert case.export() == exported
    assert b".py" not in b"".join(archive.read(exported).functions.values())  # nor is told where they were written
    assert recurrent.case().export() == exported


def test_what_a_function_closes_over_is_part_of_it(case):
    data = case.data["valid"]

    def outer_loss(given, params, hyper, key):
        return recurrent.loss(params, data["inputs"], data["labels"])

    assert case.export(outer_loss=outer_loss) != case.export()


# what users write


def test_a_callback_is_refused_where_it_is_exported(case):
    def inner_loss(data, params, hyper, step, key):
        jax.debug.print("{}", step)
        return recurrent.loss(params, data["train"]["inputs"], data["train"]["labels"])

    with pytest.raises(InvalidProblem, match="inner_loss cannot be exported.*leave out callbacks"):
        case.export(inner_loss=inner_loss)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inner_loss": lambda params, hyper: 0.0}, "inner_loss takes"),
        ({"outer_loss": lambda data, params, hyper, key: params["output"]}, "outer_loss must return one real number"),
        ({"schedule": lambda hyper: {"momentum": 0.1}}, "schedule must return a dict with exactly"),
        ({"schedule": lambda hyper: {"step_size": jnp.ones(7), "momentum": 0.5}}, "schedule 'step_size' has shape"),
        ({"init": lambda hyper, key: {}}, "init must return"),
        ({"num_steps": 0}, "num_steps is 0"),
        ({"hyper": {"a": jnp.ones(2, jnp.int32)}}, "must hold finite floats"),
        ({"hyper": {"a b": jnp.ones(2)}}, "Names are made of letters"),
        ({"hyper": {"document": jnp.ones(2)}}, "'document' is a name that results need"),
        ({"data": [1]}, "data must be"),
        ({"data": {"train": {"inputs": "text"}}}, "data.train.inputs is no array"),
        ({"metrics": lambda data, params, hyper, key: 1.0}, "metrics must return a dict"),
        ({"metrics": lambda data, params, hyper, key: {"a": jnp.ones(2)}}, "metrics must return real numbers"),
        ({"platforms": ("cuda",)}, "platforms must hold cpu"),
    ],
)  # fmt: skip
def test_mistakes_are_named_where_a_problem_is_exported(case, changes, said):
    if "hyper" in changes:
        constant = {
            "init": lambda hyper, key: {"w": jnp.ones(2)},
            "schedule": lambda hyper: {"step_size": 0.1, "momentum": 0.5},
        }
        loss = {
            "inner_loss": lambda data, params, hyper, step, key: 0.0,
            "outer_loss": lambda data, params, hyper, key: 0.0,
        }
        changes = constant | loss | {"metrics": None} | changes
    with pytest.raises(InvalidProblem) as caught:
        case.export(**changes)
    assert said in str(caught.value)


# damaged and forged archives


def test_no_archive_at_all():
    for content in (b"", b"PK", b"not a zip file at all, though long enough to be one", bytes(1000)):
        refused_by_reading(content, "export_problem")


def refused_by_reading(content, *said):
    with pytest.raises(InvalidProgram) as caught:
        archive.read(content)
    assert all(one in str(caught.value) for one in said)
    with pytest.raises(InvalidProgram):
        read_whole(content)


def read_whole(content):
    read_manifest(io.BytesIO(content))
    archive.read(content)


def test_a_truncated_file(small):
    for length in range(0, len(small), max(1, len(small) // 50)):
        refused_by_reading(small[:length])


def test_a_bomb(small):
    bomb = forging.with_serialized(small, "inner_loss", bytes(200 << 20))
    assert len(bomb) < 1 << 20
    refused_by_reading(bomb, "declare", "decompressed")


@pytest.mark.parametrize(
    "names", [["functions/../init.bin"], ["/etc/passwd"], ["functions/init.bin"] * 2, ["x" * 300]]
)
def test_other_entries(small, names):
    entries = forging.entries_of(small)
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as written:
            for name, content in entries.items():
                written.writestr(name, content)
            for name in names:
                with_warnings_off(written, name)
        refused_by_reading(file.getvalue(), "export_problem")


def with_warnings_off(written, name):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of names that are there twice
        written.writestr(name, b"")


def test_a_function_that_is_missing_or_too_many(small):
    entries = forging.entries_of(small)
    content = entries.pop("functions/inner_product.bin")
    refused_by_reading(forging.zipped(entries), "misses inner_product")
    refused_by_reading(
        forging.zipped(entries | {"functions/inner_prod.bin": content}), "misses inner_product", "inner_prod"
    )


def test_entries_that_are_exchanged(small):
    entries = forging.entries_of(small)
    renamed = entries | {
        "functions/inner_loss.bin": entries["functions/outer_loss.bin"],
        "functions/outer_loss.bin": entries["functions/inner_loss.bin"],
    }
    refused(forging.zipped(renamed), "inner_loss", "is called 'outer_loss'")


def test_a_start_that_is_no_number(small):
    refused_by_reading(
        forging.with_entry(small, HYPER, np.full(4, np.nan).tobytes()), "hyper.bin: start holds NaN"
    )
    refused_by_reading(forging.with_entry(small, HYPER, bytes(8)), "hyper.bin: has 8 bytes")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update(format=2), "format"),
        (lambda m: m.update(more=1), "more"),
        (lambda m: m.pop("reads"), "reads"),
        (lambda m: m.update(num_steps=0), "num_steps"),
        (lambda m: m.update(num_steps=10**9), "num_steps"),
        (lambda m: m.update(platforms=["cuda"]), "platforms must hold cpu"),
        (lambda m: m["hyper"][0].update(name="../a"), "hyper.0.name"),
        (lambda m: m["hyper"][0].update(dtype="int32"), "hyper.0.dtype"),
        (lambda m: m["hyper"][0].update(shape=[1 << 40]), "more than"),
        (lambda m: m["hyper"][0].update(shape=[-1]), "hyper.0.shape"),
        (lambda m: m["params"].append(m["params"][0]), "params names something twice"),
        (lambda m: m["schedule"][0].update(name="speed"), "no optimizer reads speed"),
        (lambda m: m["schedule"][0]["arrays"][0].update(shape=[3]), "schedule: momentum must be real"),
        (lambda m: m["reads"].update(init=["start", "start"]), "reads of init must name leaves of hyper"),
        (lambda m: m["reads"].update(init=["other"]), "reads of init must name leaves of hyper"),
        (lambda m: m.update(residuals=[{"shape": [], "dtype": "float32"}] * 5000), "residuals"),
    ],
)  # fmt: skip
def test_a_manifest_that_contradicts_itself(small, change, said):
    refused_by_reading(forging.with_manifest(small, change), "manifest.json", said)


def test_a_manifest_that_is_no_json(small):
    refused_by_reading(forging.with_entry(small, MANIFEST, b"{" * 100_000), "manifest.json")
    refused_by_reading(forging.with_entry(small, MANIFEST, b" " * (2 << 20)), "manifest.json: has")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["params"][0].update(shape=[3, 2]), "array 0, and its manifest says float32 of shape [3, 2]"),
        (lambda m: m["params"][0].update(dtype="float64"), "manifest says float64"),
        (lambda m: m["losses"].update(inner_loss="float64"), "inner_loss: returns"),
        (lambda m: m.update(residuals=[]), "inner_linearized: returns"),
        (lambda m: m.update(calling_convention=9), "its manifest 9"),
        (lambda m: m.update(platforms=["cpu"]), "its manifest says otherwise"),
        (lambda m: m["reads"].update(outer_loss=["start"]), "outer_loss: takes 2 arrays"),
    ],
)
def test_a_manifest_that_lies_about_functions(small, change, said):
    refused(forging.with_manifest(small, change), said)


# forged functions


def test_what_is_no_exported_function(small):
    for content in (b"", b"\0" * 100, bytes(range(256)) * 20):
        refused(forging.with_serialized(small, "inner_loss", content), "inner_loss: is not an exported function")


def test_a_signature_that_is_another(small):
    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    refused(forging.with_function(small, "inner_loss", lambda x: [x.sum()], [shape]), "inner_loss: takes 1 arrays")
    refused(
        forging.with_function(small, "inner_loss", lambda *x: [x[0].sum()] * 2), "inner_loss: returns 2 arrays"
    )
    refused(
        forging.with_function(small, "inner_loss", lambda *x: [x[0]]),
        "returns",
        "its manifest says float32 of shape []",
    )
    refused(
        forging.with_function(small, "inner_loss", lambda *x: {"a": x[0].sum()}), "something else than flat lists"
    )


def test_a_module_whose_signature_is_not_what_is_said_of_it(small):
    other = forging.with_function(small, "outer_loss", lambda *x: [x[0].sum() + x[1][0]])
    module = jax.export.deserialize(bytearray(archive.read(other).functions["outer_loss"])).mlir_module_serialized
    refused(
        forging.with_exported(small, "outer_loss", mlir_module_serialized=module),
        "outer_loss: its module has another",
    )


def test_fields_that_ask_for_more(small):
    effect = jax.export.DisabledSafetyCheck.platform()
    refused(
        forging.with_exported(small, "init", disabled_safety_checks=(effect,)), "asks for checks to be left out"
    )
    refused(forging.with_exported(small, "init", nr_devices=8), "is for 8 devices")
    refused(forging.with_exported(small, "init", platforms=("cpu", "tpu")), "its manifest says otherwise")
    refused(forging.with_exported(small, "init", calling_convention_version=3), "has calling convention 3")
    refused(
        forging.with_exported(small, "init", module_kept_var_idx=(0, 7)), "names arguments that it does not have"
    )
    refused(forging.with_exported(small, "init", fun_name="f"), "is called 'f'")


def test_sharded_functions(small):
    mesh = Mesh(np.array(jax.devices()[:1]), ("x",))
    sharding = NamedSharding(mesh, PartitionSpec("x"))

    def init(start, key):
        return [jax.lax.with_sharding_constraint(start.astype(jnp.float32), sharding)]

    refused(forging.with_function(small, "init", init), "init")


def test_a_function_that_brings_its_own_derivative(small):
    exported = jax.export.export(jax.jit(lambda *x: [x[0].sum()]), platforms=("cpu", "cuda"))
    wanted = jax.export.deserialize(bytearray(archive.read(small).functions["outer_loss"])).in_avals
    content = bytes(exported(*[jax.ShapeDtypeStruct(a.shape, a.dtype) for a in wanted]).serialize(vjp_order=1))
    refused(forging.with_serialized(small, "outer_loss", content), "outer_loss")


def hidden(operation, kind="tensor<f32>"):
    """An operation within a loop within a function that main calls."""

    def change(text):
        main, *rest = text.split("func.func public @main", 1)
        inner = f"""
  func.func private @inner(%a: tensor<f32>) -> tensor<f32> {{
    %c = stablehlo.constant dense<0> : tensor<i32>
    %r:2 = stablehlo.while(%i = %c, %x = %a) : tensor<i32>, tensor<f32>
     cond {{
      %n = stablehlo.constant dense<3> : tensor<i32>
      %p = stablehlo.compare LT, %i, %n : (tensor<i32>, tensor<i32>) -> tensor<i1>
      stablehlo.return %p : tensor<i1>
    }} do {{
      {operation}
      stablehlo.return %i, %y : tensor<i32>, tensor<f32>
    }}
    return %r#1 : tensor<f32>
  }}
"""
        head, tail = rest[0].rsplit("return ", 1)
        value, after = tail.split(" : ", 1)
        called = f"%zz = call @inner({value}) : (tensor<f32>) -> tensor<f32>\n    return %zz : {after}"
        return main + inner + "  func.func public @main" + head + called

    return change


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        ('%y = stablehlo.custom_call @xla_ffi_python_cpu_callback(%x) {has_side_effect = true} : (tensor<f32>) -> tensor<f32>', "xla_ffi_python_cpu_callback"),
        ('%y = stablehlo.custom_call @system(%x) : (tensor<f32>) -> tensor<f32>', "'system'"),
        ('%y = stablehlo.custom_call @AllocateBuffer() : () -> tensor<f32>', "AllocateBuffer"),
        ('%y = stablehlo.custom_call @lapack_spotrf_ffi(%x) : (tensor<f32>) -> tensor<f32>', "with shapes that it does not have"),
        ('%t = stablehlo.create_token : !stablehlo.token\n      %y:2 = "stablehlo.infeed"(%t) {infeed_config = ""} : (!stablehlo.token) -> (tensor<f32>, !stablehlo.token)', "which is not run here"),
        ('%one = stablehlo.constant dense<1.0> : tensor<f32>\n      %s = stablehlo.constant dense<[]> : tensor<0xi64>\n      %y = stablehlo.rng %x, %one, %s, distribution = UNIFORM : (tensor<f32>, tensor<f32>, tensor<0xi64>) -> tensor<f32>', "stablehlo.rng"),
        ('%y = "stablehlo.all_reduce"(%x) ({\n      ^bb0(%p: tensor<f32>, %q: tensor<f32>):\n        stablehlo.return %p : tensor<f32>\n      }) {replica_groups = dense<0> : tensor<1x1xi64>} : (tensor<f32>) -> tensor<f32>', "stablehlo.all_reduce"),
        ('%big = stablehlo.broadcast_in_dim %x, dims = [] : (tensor<f32>) -> tensor<1048576x262144xf32>\n      %z = stablehlo.constant dense<0.0> : tensor<f32>\n      %y = stablehlo.reduce(%big init: %z) applies stablehlo.add across dimensions = [0, 1] : (tensor<1048576x262144xf32>, tensor<f32>) -> tensor<f32>', "holds an array of 1099511627776 bytes"),
        ('%d = stablehlo.constant dense<[2]> : tensor<1xi32>\n      %v = stablehlo.dynamic_broadcast_in_dim %x, %d, dims = [] : (tensor<f32>, tensor<1xi32>) -> tensor<?xf32>\n      %z = stablehlo.constant dense<0.0> : tensor<f32>\n      %y = stablehlo.reduce(%v init: %z) applies stablehlo.add across dimensions = [0] : (tensor<?xf32>, tensor<f32>) -> tensor<f32>', "which is not run here"),
        ('%y = stablehlo.add %x, %x {mhlo.frontend_attributes = {_xla_compute_type = "host"}} : tensor<f32>', "mhlo.frontend_attributes"),
        ('%y = func.call @inner(%x) : (tensor<f32>) -> tensor<f32>', "functions that call themselves"),
    ],
)  # fmt: skip
def test_operations_that_are_hidden_deep_inside(small, operation, said):
    refused(forging.with_text(small, "outer_loss", hidden(operation)), "outer_loss", said)


def test_the_same_hiding_place_with_something_harmless(small):
    looked_at(
        archive.read(forging.with_text(small, "outer_loss", hidden("%y = stablehlo.add %x, %x : tensor<f32>")))
    )


def test_calls_that_double_thirty_times(small):
    def change(text):
        main, rest = text.split("func.func public @main", 1)
        doubling = "".join(
            f"""
  func.func private @f{n}(%a: tensor<f32>) -> tensor<f32> {{
    %b = call @f{n + 1}(%a) : (tensor<f32>) -> tensor<f32>
    %c = call @f{n + 1}(%b) : (tensor<f32>) -> tensor<f32>
    return %c : tensor<f32>
  }}"""
            for n in range(30)
        )
        end = "\n  func.func private @f30(%a: tensor<f32>) -> tensor<f32> {\n    return %a : tensor<f32>\n  }\n"
        return main + doubling + end + "  func.func public @main" + rest

    refused(forging.with_text(small, "outer_loss", change), "once calls are written out")


# what numerical code needs is there


def factorised(matrix):
    symmetric = matrix @ matrix.T + jnp.eye(len(matrix), dtype=matrix.dtype)
    return {
        "cholesky": jnp.linalg.cholesky(symmetric).sum(),
        "solve": jnp.linalg.solve(symmetric, matrix).sum(),
        "qr": jnp.linalg.qr(matrix)[1].sum(),
        "eigh": jnp.linalg.eigvalsh(symmetric).sum(),
        "fft": jnp.abs(jnp.fft.rfft(matrix.ravel())).sum(),
        "sort": jnp.sort(matrix.ravel())[0] + jax.lax.top_k(matrix.ravel(), 2)[0].sum(),
        "erf": jax.scipy.special.erf(matrix).sum() + jax.lax.lgamma(jnp.abs(matrix)).sum(),
        "conv": jax.lax.conv(matrix[None, None], matrix[None, None], (1, 1), "SAME").sum(),
        "pool": jax.lax.reduce_window(matrix, -jnp.inf, jax.lax.max, (2, 2), (1, 1), "VALID").sum(),
    }


@pytest.mark.parametrize("what", ["cholesky", "solve", "qr", "eigh", "fft", "sort", "erf", "conv", "pool"])
def test_linear_algebra_and_special_functions_may_be_exported(what):
    functions = {
        "init": lambda hyper, key: {"w": jax.random.normal(key, (4, 4), jnp.float32)},
        "schedule": lambda hyper: {"step_size": hyper["a"], "momentum": 0.5},
    }
    made = recurrent.Case(functions, {"a": jnp.asarray(0.1)}, {})
    program = made.export(
        inner_loss=lambda params, hyper, step, key: factorised(params["w"])[what],
        outer_loss=lambda params, hyper, key: factorised(params["w"])[what],
        data=None,
        metrics=None,
    )
    calls = {call for _, found in contents(archive.read(program)).values() for call in found.calls}
    assert calls <= set(CALLS)
