import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import InvalidProblem
from core.reversal.information_buffer import Plan
from core.reversal.moves import to_float
from core.reversal.optimizers import sgd
from core.reversal.pace import Pace
from core.reversal.schedule import check, normalize
from core.reversal.states import mismatched_bits, without_buffers
from core.reversal.stores import DiskStore
from core.reversal.trajectory import Conduct, LeftRange
from tests.core.reversal.training import KEY, Training, make_params, noisy_gradient


def random_momenta(steps, low=0.3, high=0.999):
    return np.random.default_rng(steps).uniform(low, high, (steps, 2))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("steps", [1, 10, 1000, 10_000])
def test_backward_recovers_the_initial_state_bit_for_bit(steps, dtype):
    training = Training({"step_size": 0.01, "momentum": random_momenta(steps)}, steps, dtype)
    trajectory = training.forward()
    stored = trajectory.stored_bits
    state = training.backward(trajectory)
    assert training.mismatch(state) == {}  # position, velocity, and buffers that are empty again
    assert len(trajectory.store) == 0
    if steps == 10_000:
        assert stored <= 1.05 * training.plan.bound_bits


@pytest.mark.parametrize(
    "momentum",
    [0.0, 1e-30, 1e-5, np.where(np.arange(100) % 7, 0.9, 0.0), np.where(np.arange(100) < 50, 1e-9, 0.5)],
    ids=["zero", "tiny", "small", "sometimes zero", "tiny then half"],
)
def test_momentum_of_any_size_is_reversed(momentum):
    training = Training({"step_size": 0.05, "momentum": momentum}, 100)
    assert training.there_and_back() == {}


def test_one_momentum_per_weight():
    momentum = jax.tree.map(
        lambda leaf: jax.random.uniform(jax.random.key(2), leaf.shape), make_params(jnp.float64)
    )
    training = Training({"step_size": 0.05, "momentum": momentum}, 300)
    assert training.there_and_back() == {}


def test_the_pieces_it_is_cut_into_change_no_bit():
    training = Training({"step_size": 0.01, "momentum": random_momenta(200)}, 200, jnp.float32)
    whole = training.forward().state
    pace = Pace(seconds=0.0)  # every chunk is too slow: one step at a time
    assert not any(mismatched_bits(whole, training.forward(conduct=Conduct(pace)).state).values())


def test_spilling_to_disk_changes_no_bit(tmp_path):
    training = Training({"step_size": 0.01, "momentum": random_momenta(500)}, 500)
    trajectory = training.forward(store=DiskStore(tmp_path))
    assert len(trajectory.store) > 5
    assert trajectory.stored_bits == training.forward().stored_bits
    assert training.mismatch(training.backward(trajectory)) == {}
    trajectory.store.close()


def test_training_follows_the_recurrence():
    """Against a float64 loop in NumPy that knows nothing of fixed point."""
    training = Training({"step_size": 0.01, "momentum": 0.9}, 50)
    w, v = dict(training.params), jax.tree.map(np.zeros_like, training.params)
    for step in range(50):
        gradient = noisy_gradient(w, step, KEY)
        v = {name: 0.9 * v[name] - 0.1 * gradient[name] for name in v}
        w = {name: w[name] + 0.01 * v[name] for name in w}
    position = training.forward().state.position
    for name in w:
        np.testing.assert_allclose(to_float(position[name], jnp.float64), w[name], atol=1e-10)


def test_dropping_the_buffer_breaks_recovery():
    training = Training({"step_size": 0.01, "momentum": 0.5}, 20)
    trajectory = training.forward()
    state = training.backward(trajectory._replace(state=without_buffers(trajectory.state)))
    assert training.mismatch(state)


def test_dropping_a_spill_breaks_recovery():
    training = Training({"step_size": 0.01, "momentum": 0.5}, 200)
    trajectory = training.forward()
    low = trajectory.store.pop()
    trajectory.store.push(jnp.zeros_like(low))
    assert training.mismatch(training.backward(trajectory))


def test_float_reversal_explodes_where_lifting_returns():
    """The naive way, in float64: divide by the momentum to undo the decay."""
    training = Training({"step_size": 0.01, "momentum": 0.5}, 400)
    w, v = dict(training.params), jax.tree.map(np.zeros_like, training.params)
    for step in range(400):
        gradient = noisy_gradient(w, step, KEY)
        v = {name: 0.5 * v[name] - 0.5 * gradient[name] for name in v}
        w = {name: w[name] + 0.01 * v[name] for name in w}
    for step in reversed(range(400)):
        w = {name: w[name] - 0.01 * v[name] for name in w}
        gradient = noisy_gradient(w, step, KEY)
        v = {name: (v[name] + 0.5 * gradient[name]) / 0.5 for name in v}
    error = max(float(jnp.max(jnp.abs(w[name] - training.params[name]))) for name in w)
    assert not error < 1e6
    assert training.there_and_back() == {}


def runaway(params, step, key):
    return jax.tree.map(lambda w: -10 * w, params)


def test_overflow_names_its_step_and_group():
    step_sizes = np.zeros((100, 2))
    step_sizes[30:, 1] = 50.0  # only group b runs away, from step 30 on
    training = Training({"step_size": step_sizes, "momentum": 0.5}, 100, gradient=runaway)
    with pytest.raises(LeftRange):
        training.forward()
    departure = training.first_departure()
    overflow = departure.overflow(["layer a", "layer b"], departure.where, -40)
    assert "lower the step size" in str(overflow)
    w, v = np.abs(np.asarray(training.params["b"])).max(), 0.0
    for step in range(100):
        v = 0.5 * v + 5 * w
        w = w + step_sizes[step, 1] * v
        if max(4 * v, w) >= 4096:  # drift takes two bits of a velocity's range
            break
    assert (overflow.group, overflow.step) == ("layer b", step)


def test_a_gradient_that_is_not_a_number_is_divergence():
    def breaks(params, step, key):
        return jax.tree.map(lambda w: jnp.where(step == 7, jnp.nan, w), params)

    training = Training({"step_size": 0.1, "momentum": 0.5}, 20, gradient=breaks)
    departure = training.first_departure()
    assert "not finite at step 7" in str(departure.overflow(["a", "b"], departure.where, -40))


def test_a_healthy_run_has_no_departure():
    assert Training({"step_size": 0.01, "momentum": 0.9}, 20).first_departure() is None


def test_interrupt_ends_a_run():
    training = Training({"step_size": 0.01, "momentum": 0.9}, 20)

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.forward(conduct=Conduct(interrupt=interrupt))


def test_an_empty_plan_is_no_steps():
    training = Training({"step_size": 0.01, "momentum": 0.9}, 20)
    assert training.mismatch(training.forward(plan=Plan((), 0.0, ())).state) == {}


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"step_size": 0.1}, "exactly"),
        ({"step_size": 0.1, "momentum": 0.9, "nesterov": 1.0}, "exactly"),
        ({"step_size": np.ones(7), "momentum": 0.9}, "'step_size' has shape"),
        ({"step_size": np.ones((20, 3)), "momentum": 0.9}, "'step_size' has shape"),
        ({"step_size": 0.1, "momentum": {"a": 0.1}}, "'momentum' has shape"),
        ({"step_size": 0.1, "momentum": 1.0}, r"'momentum' is 1.0 .* \[0, 1\)"),
        ({"step_size": 0.1, "momentum": -0.1}, r"'momentum' is -0.1 .* \[0, 1\)"),
        ({"step_size": np.nan, "momentum": 0.1}, "'step_size' is nan .* finite"),
    ],
)
def test_a_bad_schedule_is_named(schedule, message):
    with pytest.raises(InvalidProblem, match=message):
        check(normalize(schedule, sgd(), make_params(jnp.float64), 20), sgd())
