"""Hyperparameters: which there are, along which axes they differ, where they start."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from core.spec.base import Bool, Float, Part

Axis = Literal["step", "group", "unit", "weight"]
_ORDER = ("step", "group", "unit", "weight")


class Hyperparameter(Part):
    """What all of them have."""

    learn: Bool = Field(
        False, description="find it by gradient descent; in jobs that do not learn: differentiate it"
    )
    outer_penalty: Float = Field(
        0.0, ge=0, description="the outer loss gains this times the sum of its squared natural values"
    )
    transform: Literal["log", "logit", "identity"] = "identity"


class Scheduled(Hyperparameter):
    """One value, or one for each step, group or weight."""

    per: tuple[Axis, ...] = Field((), description="axes along which values differ; [] is one value for all")
    initial: Float = 0.0

    @field_validator("per")
    @classmethod
    def _no_repeats(cls, per: tuple[Axis, ...]) -> tuple[Axis, ...]:
        if len(set(per)) != len(per):
            raise ValueError("an axis is named twice; name each once")
        for axis in ("weight", "unit"):
            if axis in per and len(per) > 1:
                raise ValueError(f"'{axis}' already tells all {axis}s apart; give it alone")
        return tuple(sorted(per, key=_ORDER.index))


class StepSize(Scheduled):
    """α: how far a step goes along the velocity."""

    per: tuple[Literal["step", "group"], ...] = ()
    initial: Float = 0.1
    transform: Literal["log", "identity"] = "log"

    @model_validator(mode="after")
    def _in_domain(self) -> StepSize:
        return _require_positive_log(self)


class Decay(Scheduled):
    """γ, β1, β2, ρ: the share of a running average that is kept in a step."""

    per: tuple[Literal["step", "group"], ...] = ()
    initial: Float = Field(0.9, ge=0, lt=1)
    transform: Literal["logit"] = "logit"

    @model_validator(mode="after")
    def _in_domain(self) -> Decay:
        if self.learn and self.initial == 0:
            raise ValueError("initial 0 has no logit; start a learned decay inside (0, 1)")
        return self


class Positive(Scheduled):
    """ε, or λ of a decoupled weight decay."""

    per: tuple[Literal["step", "group"], ...] = ()
    initial: Float = Field(1e-8, ge=0)
    transform: Literal["log", "identity"] = "log"

    @model_validator(mode="after")
    def _in_domain(self) -> Positive:
        return _require_positive_log(self)


class InitScale(Scheduled):
    """Standard deviation of the initial weights and biases."""

    per: tuple[Literal["group"], ...] = ()
    initial: Float = Field(0.1, ge=0)
    transform: Literal["log", "identity"] = "log"

    @model_validator(mode="after")
    def _in_domain(self) -> InitScale:
        return _require_positive_log(self)


class L2(Scheduled):
    """λ: the inner loss gains the sum of λ·w² over all weights and biases. A unit's λ is for all that leads to it."""

    per: tuple[Literal["group", "unit", "weight"], ...] = ()
    initial: Float = Field(0.0, ge=0)
    transform: Literal["log", "identity"] = "log"

    @model_validator(mode="after")
    def _in_domain(self) -> L2:
        return _require_positive_log(self)


class Inputs(Hyperparameter):
    """The inputs of the examples trained on, one for each example and feature."""

    initial: Float = Field(0.0, description="mean of the starting values")
    noise: Float = Field(0.01, ge=0, description="standard deviation of the starting values")
    transform: Literal["identity"] = "identity"


class Labels(Hyperparameter):
    """What is added to the logits of the labels trained on, one for each example and class: soft labels."""

    initial: Float = 0.0
    confidence: Float = Field(4.0, ge=0, description="logit of the given class; those of the others are 0")
    transform: Literal["identity"] = "identity"


class ExampleWeights(Hyperparameter):
    """How much each example counts in the inner loss: at 1 as much as without weights, at 0 not at all."""

    initial: Float = Field(0.5, gt=0, lt=1)
    transform: Literal["logit"] = "logit"


class Augmentation(Hyperparameter):
    """How far images are moved at random in every step: standard deviations, drawn anew for each example."""

    shift: Float = Field(0.5, gt=0, description="pixels, along each axis")
    rotation: Float = Field(5.0, gt=0, description="degrees")
    noise: Float = Field(0.05, gt=0, description="added to each pixel, in units of the inputs")
    transform: Literal["log"] = "log"


class TaskMixing(Hyperparameter):
    """T of each layer: the weights of task i are the sum of T_ij z_j, and training moves z."""

    sharing: tuple[Annotated[Float, Field(ge=0, le=1)], ...] = Field(
        (0.5,),
        min_length=1,
        max_length=9,
        description="where T starts, for each layer or for all: 0 keeps tasks apart, 1 makes them one; between them, "
        "(1 − s) × identity + s / tasks",
    )
    transform: Literal["identity"] = "identity"


class InitialWeights(Hyperparameter):
    """w₀ itself, one for each weight, in place of random initial weights; it starts as one draw of them."""

    scale: Float = Field(0.1, ge=0, description="standard deviation of the starting values")
    transform: Literal["identity"] = "identity"


_Scaled = TypeVar("_Scaled", StepSize, Positive, InitScale, L2)


def _require_positive_log(hyper: _Scaled) -> _Scaled:
    if hyper.learn and hyper.transform == "log" and hyper.initial <= 0:
        raise ValueError("a value learned through its log must start above 0; raise initial or use identity")
    return hyper


class Hyperparameters(Part):
    """What training depends on. Those with `learn` are found by gradient descent, the others stay put.

    Those of other optimizers and problems are left out.
    """

    step_size: StepSize | None = Field(None, description="0.1 unless given")
    momentum: Decay | None = Field(None, description="γ of sgd, heavy_ball, nesterov, rmsprop; 0.9 unless given")
    b1: Decay | None = Field(None, description="β1 of adam, adamw; 0.9 unless given")
    b2: Decay | None = Field(None, description="β2 of adam, adamw; 0.999 unless given")
    decay: Decay | None = Field(None, description="ρ of rmsprop; 0.99 unless given")
    epsilon: Positive | None = Field(None, description="ε of rmsprop, adam, adamw; 1e-8 unless given")
    weight_decay: Positive | None = Field(None, description="λ of adamw; 0.01 unless given")
    init_scale: InitScale | None = Field(None, description="0.1 unless given")
    l2: L2 | None = Field(None, description="none unless given")
    inputs: Inputs | None = None
    labels: Labels | None = None
    example_weights: ExampleWeights | None = None
    augmentation: Augmentation | None = None
    task_mixing: TaskMixing | None = None
    initial_weights: InitialWeights | None = None

    @property
    def given(self) -> dict[str, Hyperparameter]:
        """Those that the specification names."""
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}

    @model_validator(mode="after")
    def _something_to_learn(self) -> Hyperparameters:
        if not any(one.learn for one in self.given.values()):
            raise ValueError("nothing to learn; set learn to true in at least one hyperparameter")
        return self
