"""A run through checkpoints whose process dies goes on with the stretch, and gives the bits of one that did not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import Problem, adam, hybrid, hypergradient, rmsprop, sgd
from core.engines import kept

STEPS, STRETCHES = 60, 4
KEY = jax.random.key(0)


class Died(Exception):
    pass


class Clock:
    """An interrupt that counts, and raises at the n-th call."""

    def __init__(self, dies_at=None):
        self.calls, self.dies_at = 0, dies_at

    def __call__(self):
        self.calls += 1
        if self.calls == self.dies_at:
            raise Died


def jumping(by, **schedule):
    """Gradients that jump at step 40, so that units change in mid-run."""

    def inner_loss(params, hyper, step, key):
        noise = 1 + 0.1 * jax.random.uniform(key)
        return noise * jnp.where(step == 40, by, 1.0) * jnp.sum((params["w"] - 1) ** 2 + params["b"] ** 2)

    return Problem(
        init=lambda hyper, key: {
            "w": jnp.exp(hyper["start"]) * jnp.arange(1.0, 5.0) / 4,
            "b": jax.random.uniform(key),
        },
        inner_loss=inner_loss,
        outer_loss=lambda params, hyper, key: jnp.sum(params["w"] ** 3) + hyper["start"] * params["b"],
        schedule=lambda hyper: {"step_size": hyper["step_size"], **schedule},
    )


CASES = {
    "one run": (sgd(), jumping(1.0, momentum=0.5), KEY, 1),
    "units that change": (adam(), jumping(1e12), KEY, 1),
    "units refined": (rmsprop(), jumping(1e-9), KEY, 1),
    "several at once": (sgd(), jumping(1.0, momentum=0.5), jax.random.split(KEY, 2), 2),
}


@pytest.fixture(
    params=[
        pytest.param(case, id=name, marks=[] if name == "one run" else pytest.mark.slow)
        for name, case in CASES.items()
    ]
)
def run(request, tmp_path):
    """Take the hypergradient: interrupt, folder → result."""
    optimizer, problem, key, side_by_side = request.param

    def run(interrupt=lambda: None, keep_in=tmp_path, step_size=0.02):
        return hypergradient(
            problem,
            {"start": jnp.asarray(-1.0), "step_size": jnp.asarray(step_size)},
            optimizer=optimizer,
            num_steps=STEPS,
            key=key,
            engine=hybrid(checkpoints=STRETCHES, interrupt=interrupt, side_by_side=side_by_side, keep_in=keep_in),
        )

    run(keep_in=None)  # compiled, and its pace found: what is counted below is the same every time
    return run


def assert_same(one, other):
    assert one.certificate == other.certificate
    for a, b in zip(jax.tree.leaves(one[:3]), jax.tree.leaves(other[:3]), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def test_wherever_it_dies_it_goes_on_with_the_same_bits(run, tmp_path):
    clock = Clock()
    whole = run(clock, keep_in=None)
    most = clock.calls
    redone = []
    for dies_at in range(1, most + 1, 2):
        with pytest.raises(Died):
            run(Clock(dies_at))
        again = Clock()
        assert_same(run(again), whole)
        redone.append(again.calls)
        assert list(tmp_path.iterdir()) == []
    assert max(redone) <= most
    assert redone[-1] < most / 2


def test_it_ends_however_often_it_dies(run, tmp_path):
    whole, clock = run(keep_in=None), Clock()
    run(clock, keep_in=None)
    longest = clock.calls // 2  # too few to come through at once
    for _ in range(20):
        try:
            found = run(Clock(longest))
        except Died:
            assert list(tmp_path.iterdir())
        else:
            break
    assert_same(found, whole)


def test_files_that_are_not_whole_or_not_its_own_are_not_used(run, tmp_path):
    whole, clock = run(keep_in=None), Clock()
    run(clock, keep_in=None)

    def die():
        with pytest.raises(Died):
            run(Clock(clock.calls - 1))

    die()
    for file in tmp_path.rglob("*.npz"):
        file.write_bytes(file.read_bytes()[:-100])
    assert_same(run(), whole)
    die()
    other = run(step_size=0.01)
    assert_same(other, run(step_size=0.01, keep_in=None))
    assert list(tmp_path.iterdir())  # another run's were left alone
    assert_same(run(), whole)


def test_a_start_that_is_not_the_runs_own_is_noticed_and_trained_anew(tmp_path):
    """The control: kept states are used, and what they lead to is proven all the same."""
    optimizer, problem, key, _ = CASES["one run"]
    arguments = {"optimizer": optimizer, "num_steps": STEPS, "key": key}
    hyper = {"start": jnp.asarray(-1.0), "step_size": jnp.asarray(0.02)}
    whole = hypergradient(problem, hyper, engine=hybrid(checkpoints=STRETCHES), **arguments)
    with pytest.raises(Died):
        hypergradient(
            problem, hyper, engine=hybrid(checkpoints=STRETCHES, interrupt=Clock(6), keep_in=tmp_path), **arguments
        )
    (folder,) = tmp_path.iterdir()
    one = kept.Kept(folder)
    record = one.load("start 1")
    spoiled = [integers + 1 for integers in record.arrays["integers"]]
    one.save("start 1", record.changes, {"integers": spoiled})
    found = hypergradient(problem, hyper, engine=hybrid(checkpoints=STRETCHES, keep_in=tmp_path), **arguments)
    assert found.certificate.exact
    assert found.certificate.mode == "isolated" != whole.certificate.mode
    np.testing.assert_array_equal(found.value, whole.value)


def test_no_room_costs_time_only(run, monkeypatch, tmp_path):
    monkeypatch.setattr(kept, "_LEFT_TO_OTHERS", 1 << 62)
    with pytest.raises(Died):
        run(Clock(8))
    assert list(tmp_path.rglob("*.npz")) == []
    assert_same(run(), run(keep_in=None))


def test_the_digest_tells_runs_apart():
    found = {
        kept.digest({"a": jnp.zeros(2)}, 1),
        kept.digest({"a": jnp.zeros(2, jnp.float32)}, 1),
        kept.digest({"b": jnp.zeros(2)}, 1),
        kept.digest({"a": jnp.zeros(2)}, 2),
        kept.digest({"a": jnp.zeros(2)}, "1"),
        kept.digest({"a": jax.random.key(0)}, 1),
        kept.digest({"a": jax.random.key(1)}, 1),
    }
    assert len(found) == 7
    assert kept.digest({"a": jnp.zeros(2)}, 1) in found
