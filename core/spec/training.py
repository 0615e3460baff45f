"""One training run, and the hyperparameters that each inner optimizer reads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from core.spec.base import Int, Part
from core.spec.hyperparameters import Decay, Positive, Scheduled, StepSize

MAX_STEPS = 1_000_000

_EPSILON = Positive(initial=1e-8)
OPTIMIZERS: dict[str, dict[str, Scheduled]] = {
    "sgd": {"step_size": StepSize(), "momentum": Decay(initial=0.9)},
    "heavy_ball": {"step_size": StepSize(), "momentum": Decay(initial=0.9)},
    "nesterov": {"step_size": StepSize(), "momentum": Decay(initial=0.9)},
    "rmsprop": {
        "step_size": StepSize(),
        "decay": Decay(initial=0.99),
        "momentum": Decay(initial=0.9),
        "epsilon": _EPSILON,
    },
    "adam": {
        "step_size": StepSize(),
        "b1": Decay(initial=0.9),
        "b2": Decay(initial=0.999),
        "epsilon": _EPSILON,
    },
}
"""Each inner optimizer's hyperparameters, with what they are unless given."""
OPTIMIZERS["adamw"] = OPTIMIZERS["adam"] | {"weight_decay": Positive(initial=0.01)}


class Training(Part):
    """One training run of the inner problem."""

    optimizer: Literal["sgd", "heavy_ball", "nesterov", "rmsprop", "adam", "adamw"] = Field(
        "sgd", description="sgd: SGD with momentum, v ← γv − (1−γ)g, w ← w + αv"
    )
    num_steps: Int = Field(gt=0, le=MAX_STEPS, description="steps T of one training run")
    batch_size: Int | None = Field(
        None, gt=0, description="examples per step, taken in order and cycled; all of them unless given"
    )
    batches: Literal["in_order", "balanced"] = Field(
        "in_order",
        description="balanced: each batch holds equally many examples of every class, those of a class in order and "
        "cycled; the batch size must be a multiple of the number of classes",
    )
    seed: Literal["fresh"] | Annotated[Int, Field(ge=0, lt=2**31)] = Field(
        "fresh",
        description="fresh: new initial weights in every meta-iteration; a number: the same every time",
    )
    dtype: Literal["float32", "float64"] = Field("float32", description="in which gradients are computed")
    checkpoints: Int = Field(
        1,
        ge=1,
        le=1000,
        description="stretches that training is run backward in. With more than one its bits take less memory, each "
        "stretch but the last is trained twice, and a long training whose worker is lost goes on with the stretch",
    )
