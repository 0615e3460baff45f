"""Several runs side by side: along an axis, over devices, with the bits of one by one."""

import jax
import numpy as np
import pytest

from core import hybrid, reversible, unrolled
from core.reversal.seeds import batch_sizes, seeds_over_devices
from tests.core.engines.regression import STEPS, drifting_problem, make_hyper, make_problem, relative_errors, run

KEYS = jax.random.split(jax.random.key(7), 4)


def bits_of(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_an_average_has_the_bits_of_one_by_one(dtype):
    problem, hyper = make_problem(dtype), make_hyper()
    together = run(problem, hyper, key=KEYS)
    assert together.certificate.exact
    assert together.certificate.runs == 4
    apart = [run(problem, hyper, key=key) for key in KEYS]
    for one, other in zip(bits_of(together.params), bits_of([one.params for one in apart]), strict=True):
        np.testing.assert_array_equal(one, other)
    mean = jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]) / 4, *[one.gradient for one in apart])
    for one, other in zip(bits_of(together.gradient), bits_of(mean), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-11)])
def test_side_by_side_is_exact_and_differs_in_rounding_alone(dtype, tolerance):
    problem, hyper = make_problem(dtype), make_hyper()
    together = run(problem, hyper, reversible(side_by_side=3), key=KEYS)
    assert (together.certificate.exact, together.certificate.runs) == (True, 4)  # three at once, and one
    assert max(relative_errors(together.gradient, run(problem, hyper, key=KEYS).gradient).values()) <= tolerance


@pytest.mark.parametrize(
    ("count", "side_by_side", "devices", "sizes"),
    [
        (7, 2, 4, [4, 3]),  # together, all seven would lie on one device
        (7, 1, 4, [4, 3]),
        (8, 2, 4, [8]),
        (23, 2, 4, [8, 8, 4, 3]),
        (5, 3, 1, [3, 2]),
        (1, 4, 8, [1]),
    ],
)
def test_runs_are_cut_into_batches(count, side_by_side, devices, sizes):
    assert batch_sizes(count, side_by_side, devices) == sizes


@pytest.mark.parametrize("devices", range(1, 9))
def test_no_device_takes_more_runs_than_it_should(devices, monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: list(range(devices)))
    for count in range(1, 40):
        for side_by_side in range(1, 5):
            sizes = batch_sizes(count, side_by_side, devices)
            assert sum(sizes) == count
            assert all(size <= side_by_side * len(seeds_over_devices(size).devices) for size in sizes)


@pytest.mark.slow
def test_over_four_devices_it_has_the_bits_of_one_by_one(run_python):
    """A fresh process, since the number of devices is settled when JAX starts."""
    output = run_python(
        """
        import os
        os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
        import jax
        jax.config.update("jax_enable_x64", True)
        import numpy as np
        from core.reversal.seeds import seeds_over_devices
        from core import reversible
        from tests.core.engines.regression import make_hyper, make_problem, relative_errors, run
        assert len(jax.devices()) == 4
        for count in (4, 6, 8):
            assert len(seeds_over_devices(count).devices) == {4: 4, 6: 3, 8: 4}[count]
            problem, hyper = make_problem("float32"), make_hyper()
            keys = jax.random.split(jax.random.key(7), count)
            together = run(problem, hyper, key=keys)
            assert together.certificate.exact and together.certificate.runs == count
            apart = [run(problem, hyper, key=key) for key in keys]
            mean = jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]) / count, *[one.gradient for one in apart])
            pairs = [(together.params, [one.params for one in apart]), (together.gradient, mean)]
            same = all(
                np.array_equal(one, other)
                for pair in pairs
                for one, other in zip(*map(jax.tree.leaves, pair), strict=True)
            )
            print(count, "runs, same bits:", same)
            crowded = run(problem, hyper, reversible(side_by_side=2), key=keys)
            errors = relative_errors(crowded.gradient, together.gradient)
            assert crowded.certificate.exact and max(errors.values()) <= 1e-5, errors
        """
    )
    assert output.splitlines() == [f"{count} runs, same bits: True" for count in (4, 6, 8)]


@pytest.mark.parametrize(
    "checkpoints", [7, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, STEPS, 10 * STEPS))]
)
def test_checkpoints_between_change_nothing_but_rounding(checkpoints):
    problem, hyper = make_problem(), make_hyper()
    whole, parts = run(problem, hyper), run(problem, hyper, hybrid(checkpoints=checkpoints))
    assert parts.certificate.exact
    assert max(relative_errors(parts.gradient, whole.gradient).values()) <= 1e-9
    again = run(problem, hyper, hybrid(checkpoints=checkpoints))
    for one, other in zip(bits_of(again[:3]), bits_of(parts[:3]), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_checkpoints_bound_what_is_stored():
    steps, checkpoints = 3000, 6
    hyper = make_hyper(steps)
    whole = run(make_problem(), hyper, steps=steps).certificate
    parts = run(make_problem(), hyper, hybrid(checkpoints=checkpoints), steps=steps).certificate
    state_bits = 2 * 64  # of position and velocity, of one weight
    bound = whole.stored_bits_per_param_step / checkpoints + (checkpoints - 1) * state_bits / steps
    assert parts.stored_bits_per_param_step <= 1.1 * bound < 0.6 * whole.stored_bits_per_param_step


@pytest.mark.parametrize("make", [reversible, lambda **options: hybrid(checkpoints=3, **options)])
def test_spilling_to_disk_changes_no_bit_and_leaves_nothing(make, tmp_path):
    problem, hyper = make_problem("float32"), make_hyper()
    memory, disk = run(problem, hyper, make()), run(problem, hyper, make(spill_to=tmp_path))
    for one, other in zip(bits_of(memory[:3]), bits_of(disk[:3]), strict=True):
        np.testing.assert_array_equal(one, other)
    assert list(tmp_path.iterdir()) == []


def test_several_keys_with_checkpoints_on_disk(tmp_path):
    problem, hyper = make_problem("float32"), make_hyper()
    plain = run(problem, hyper, hybrid(checkpoints=3), key=KEYS)
    parts = run(problem, hyper, hybrid(checkpoints=3, spill_to=tmp_path), key=KEYS)
    for one, other in zip(bits_of(plain[:3]), bits_of(parts[:3]), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_the_fallback_takes_all_runs():
    result = run(drifting_problem(), make_hyper(), reversible(fallback=unrolled()), key=KEYS[:2])
    assert (result.certificate.engine, result.certificate.exact) == ("unrolled", False)
    assert len(result.params) == 2


def test_an_interrupted_run_leaves_nothing_behind(tmp_path):
    class Enough(Exception):
        pass

    calls = iter(range(1000))

    def interrupt():
        if next(calls) == 12:
            raise Enough

    with pytest.raises(Enough):
        run(make_problem("float32"), make_hyper(), hybrid(checkpoints=5, interrupt=interrupt, spill_to=tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert run(make_problem("float32"), make_hyper()).certificate.exact
