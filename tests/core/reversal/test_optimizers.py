"""Every optimizer is undone bit for bit, whatever it is given; and takes the steps that its authors published."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from core.errors import InvalidProblem
from core.reversal import stepping
from core.reversal.moves import to_float
from core.reversal.optimizers import adam, adamw, heavy_ball, nesterov, rmsprop, sgd
from core.reversal.schedule import check, normalize, prepare
from core.reversal.trajectory import LeftRange
from tests.core.reversal.training import KEY, Training, make_params, noisy_gradient

OPTIMIZERS = {one().name: one() for one in (sgd, heavy_ball, nesterov, rmsprop, adam, adamw)}

# usual values, and what only exactness survives: nothing remembered, nearly nothing, nearly everything
DECAYS = st.sampled_from([0.0, 1e-12, 1e-3, 0.3, 0.9, 0.999, 1 - 1e-9]) | st.floats(0, 0.9999)
VALUES = {
    "step_size": st.sampled_from([0.0, 1e-6, -1e-3, 0.01]) | st.floats(-0.01, 0.01),
    "momentum": DECAYS,
    "decay": DECAYS,
    "b1": DECAYS,
    "b2": DECAYS,
    "epsilon": st.sampled_from([1e-8, 1e-3]),
    "weight_decay": st.floats(0, 0.1),
}
TREES = [
    lambda draw: {"a": (5, 7), "b": (7,)},
    lambda draw: [(3,)],
    lambda draw: {"deep": [(), (2, 3)], "empty": (0, 4)},
]
HISTORICAL = {"b1", "b2"}


@st.composite
def trainings(draw):
    optimizer = draw(st.sampled_from(sorted(OPTIMIZERS)).map(OPTIMIZERS.get))
    shapes = draw(st.sampled_from(TREES))(draw)
    steps = draw(st.integers(1, 60))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    dtypes = draw(st.lists(st.sampled_from([jnp.float32, jnp.float64]), min_size=3, max_size=3))
    leaves, treedef = jax.tree.flatten(shapes, is_leaf=lambda node: isinstance(node, tuple))
    params = treedef.unflatten(
        [jnp.asarray(rng.normal(size=shape), dtype) for shape, dtype in zip(leaves, dtypes, strict=False)]
    )
    schedule = {}
    for name in optimizer.hyperparameters:
        kinds = ["scalar", "step", "step and group", "group"] + ["weight"] * (name not in HISTORICAL)
        kind = draw(st.sampled_from(kinds))
        value, other = draw(VALUES[name]), draw(VALUES[name])
        if optimizer.name == "adamw":
            value, other = abs(value), abs(other)  # a negative step size would make weights grow by themselves
        if kind == "weight":
            schedule[name] = jax.tree.map(
                lambda leaf, value=value, other=other: np.where(rng.random(leaf.shape) < 0.5, value, other), params
            )
            continue
        shape = {"scalar": (), "step": (steps,), "step and group": (steps, len(leaves)), "group": (1, len(leaves))}
        schedule[name] = np.where(rng.random(shape[kind]) < 0.5, value, other)
    # one memory may be a million times as large as another; units must not matter
    units = {
        field: jax.tree.map(lambda leaf: jnp.asarray(2.0 ** rng.integers(-46, -33)), params)
        for field in stepping.anatomy(optimizer).fields
    }
    return Training(schedule, steps, optimizer=optimizer, params=params, units=units)


PROPERTY = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def is_undone(training):
    try:
        return training.there_and_back() == {}
    except LeftRange:  # a unit that was drawn is too fine for a gradient over a vanishing root: nothing to undo
        reject()


@settings(PROPERTY, max_examples=4)
@given(trainings())
def test_backward_undoes_forward_bit_for_bit(training):
    assert is_undone(training)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(PROPERTY, max_examples=150)
@given(trainings())
def test_backward_undoes_many_a_forward_bit_for_bit(training):
    assert is_undone(training)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "nesterov" else name for name in OPTIMIZERS]
)
def test_a_long_run_is_undone_within_the_bits_that_theory_asks(name):
    steps = 3000
    rng = np.random.default_rng(0)
    random = {
        "step_size": rng.uniform(1e-4, 1e-2, (steps, 2)),
        "momentum": rng.uniform(0.3, 0.999, (steps, 2)),
        "decay": rng.uniform(0.9, 0.9999, (steps, 2)),
        "b1": rng.uniform(0.3, 0.999, (steps, 2)),
        "b2": rng.uniform(0.9, 0.9999, (steps, 2)),
    }
    schedule = {key: values for key, values in random.items() if key in OPTIMIZERS[name].hyperparameters}
    training = Training(schedule, steps, jnp.float32, optimizer=OPTIMIZERS[name])
    trajectory = training.forward()
    stored = trajectory.stored_bits
    assert training.mismatch(training.backward(trajectory)) == {}
    assert len(trajectory.store) == 0
    slack = 1.25 if name == "nesterov" else 1.05  # 64 bits for numbers of 53
    assert stored <= slack * training.plan.bound_bits


def followed(name, schedule, steps=40, dtype=jnp.float64):
    training = Training(schedule, steps, dtype, optimizer=OPTIMIZERS[name])
    position = training.forward().state.position
    return {key: to_float(number, jnp.float64) for key, number in position.items()}


PUBLISHED = {
    "heavy_ball": (lambda h: optax.sgd(h["step_size"], h["momentum"]), {"momentum": 0.9}),
    "nesterov": (lambda h: optax.sgd(h["step_size"], h["momentum"], nesterov=True), {"momentum": 0.9}),
    "rmsprop": (
        lambda h: optax.rmsprop(
            h["step_size"], h["decay"], h["epsilon"], momentum=h["momentum"], eps_in_sqrt=False
        ),
        {"decay": 0.9, "momentum": 0.8, "epsilon": 1e-4},
    ),
    "adam": (
        lambda h: optax.adam(h["step_size"], h["b1"], h["b2"], h["epsilon"]),
        {"b1": 0.9, "b2": 0.99, "epsilon": 1e-8},
    ),
    "adamw": (
        lambda h: optax.adamw(h["step_size"], h["b1"], h["b2"], h["epsilon"], weight_decay=h["weight_decay"]),
        {"b1": 0.9, "b2": 0.99, "epsilon": 1e-8, "weight_decay": 0.1},
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_steps_are_those_of_optax(name):
    make, hypers = PUBLISHED[name]
    hypers = hypers | {"step_size": 0.01}
    expected = make_params(jnp.float64)
    transform = make(hypers)
    state = transform.init(expected)
    for number in range(40):
        updates, state = transform.update(noisy_gradient(expected, number, KEY), state, expected)
        expected = optax.apply_updates(expected, updates)
    found = followed(name, hypers)
    for key in expected:
        # Optax shrinks by the weights after Adam's move is computed, as we do before it: the same sum
        np.testing.assert_allclose(found[key], expected[key], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_dead_units_stay_where_they_are(name):
    """A gradient of zero: second moments of zero, which a rounding may leave a unit below zero."""

    def dead(params, step, key):
        return jax.tree.map(jnp.zeros_like, params)

    training = Training(
        {
            "step_size": 0.1,
            **({"momentum": 0.9} if "momentum" in OPTIMIZERS[name].hyperparameters and name != "rmsprop" else {}),
            **({"weight_decay": 0.0} if name == "adamw" else {}),
        },
        50,
        gradient=dead,
        optimizer=OPTIMIZERS[name],
    )
    trajectory = training.forward()
    for key, leaf in training.params.items():
        np.testing.assert_allclose(to_float(trajectory.state.position[key], jnp.float64), leaf, atol=1e-12)
    assert training.mismatch(training.backward(trajectory)) == {}


@pytest.mark.parametrize(
    ("name", "schedule", "message"),
    [
        ("adam", {"step_size": 0.1, "b1": 1.0}, r"'b1' is 1.0 .* \[0, 1\)"),
        ("adam", {"step_size": 0.1, "b2": -0.5}, r"'b2' is -0.5 .* \[0, 1\)"),
        ("adam", {"step_size": 0.1, "epsilon": -1.0}, "'epsilon' is -1.0 .* at least 0"),
        ("adam", {"step_size": np.inf}, "'step_size' is inf"),
        ("adam", {"step_size": 0.1, "momentum": 0.9}, r"exactly \['step_size'\], and if you like"),
        ("adamw", {"step_size": 0.1, "weight_decay": np.nan}, "'weight_decay' is nan"),
        ("rmsprop", {"step_size": 0.1, "decay": np.ones(3)}, "'decay' has shape"),
        ("nesterov", {"step_size": 0.1, "momentum": 1.5}, r"\[0, 1\)"),
    ],
)
def test_a_bad_schedule_is_named(name, schedule, message):
    optimizer = OPTIMIZERS[name]
    with pytest.raises(InvalidProblem, match=message):
        check(normalize(schedule, optimizer, make_params(jnp.float64), 20), optimizer)


def test_a_history_per_weight_is_refused():
    params = make_params(jnp.float64)
    given = normalize({"step_size": 0.1, "b1": jax.tree.map(lambda leaf: 0.9, params)}, adam(), params, 20)
    with pytest.raises(InvalidProblem, match="'b1' of adam acts through its history"):
        prepare(given, adam(), 20)


def test_a_decay_that_would_turn_weights_round_is_refused():
    with pytest.raises(InvalidProblem, match="step 0 of adamw would scale position of group 0 by -1"):
        Training({"step_size": 1.0, "weight_decay": 2.0}, 5, optimizer=adamw())
