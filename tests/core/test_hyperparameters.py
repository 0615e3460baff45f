import numpy as np
import pytest

from core import presets
from core.hyperparameters import constrain, count_learned, groups_of, layouts_of, unconstrain


@pytest.mark.parametrize("transform", ["log", "logit", "identity"])
def test_unconstrain_inverts_constrain(transform):
    natural = np.linspace(0.01, 0.99, 50)
    np.testing.assert_allclose(constrain(unconstrain(natural, transform), transform), natural, rtol=1e-14)


def test_the_papers_experiment_has_1608_hyperparameters():
    spec = presets.get("learning-rate-schedules")
    groups = groups_of(spec.problem, 784, 10)
    layouts = layouts_of(spec, groups)
    assert [group.name for group in groups][:3] == ["layer_1.weights", "layer_1.biases", "layer_2.weights"]
    assert count_learned(layouts) == 1608
    assert layouts["step_size"].shape == (100, 8)
    assert layouts["step_size"].initial_values()[0, 0] == pytest.approx(-1)
    assert layouts["momentum"].initial_values()[0, 0] == 0
    assert layouts["init_scale"].initial_values()[0] == pytest.approx(-3)


def test_a_weight_axis_runs_through_all_parameters():
    spec = presets.get("digits-schedules").model_dump()
    spec["hyperparameters"]["l2"] = {"learn": True, "per": ["weight"], "initial": 0.01}
    spec = type(presets.get("digits-schedules")).model_validate(spec)
    layouts = layouts_of(spec, groups_of(spec.problem, 64, 10))
    assert layouts["l2"].shape == (64 * 50 + 50 + 2 * (50 * 50 + 50) + 50 * 10 + 10,)
