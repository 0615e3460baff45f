"""JobSpec: a meta-optimization job as data. Everything that decides a job's result stands in it."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator, model_validator

MAX_STEPS = 1_000_000
MAX_ITERATIONS = 10_000
MAX_WIDTH = 8192


Int = Annotated[int, Strict()]  # neither "100" nor true nor 1.0
Float = Annotated[float, Strict()]
Bool = Annotated[bool, Strict()]


class _Strict(BaseModel):
    """Unknown fields are mistakes, and numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Split(_Strict):
    """Examples in each part, drawn without overlap by a fixed shuffle of the data set."""

    train: Int = Field(gt=0, description="examples that the inner problem trains on")
    valid: Int = Field(gt=0, description="examples of the validation loss")
    test: Int = Field(gt=0, description="examples that nothing is fitted to")

    @property
    def total(self) -> int:
        """Examples needed in all."""
        return self.train + self.valid + self.test


class Dataset(_Strict):
    """Which data, and how it is divided."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$", description="digits, or a folder of the data folder")
    split: Split


class LogisticRegression(_Strict):
    """One affine layer and a log-softmax."""

    kind: Literal["logistic_regression"]

    @property
    def hidden(self) -> tuple[int, ...]:
        """No hidden layers."""
        return ()


class MLP(_Strict):
    """Affine layers with an activation between them, ending in a log-softmax."""

    kind: Literal["mlp"]
    hidden: tuple[Annotated[Int, Field(gt=0, le=MAX_WIDTH)], ...] = Field(min_length=1, max_length=8)
    activation: Literal["tanh", "relu"] = "tanh"


class ClassifierProblem(_Strict):
    """The inner problem: fit a classifier; and what the outer problem asks of it."""

    kind: Literal["classifier"]
    dataset: Dataset
    model: Annotated[LogisticRegression | MLP, Field(discriminator="kind")]
    outer_loss: Literal["train", "valid"] = Field(
        "valid", description="mean cross-entropy of the trained model over the whole of this part"
    )


class Training(_Strict):
    """One training run of the inner problem."""

    optimizer: Literal["sgd"] = Field("sgd", description="SGD with momentum, v ← γv − (1−γ)g, w ← w + αv")
    num_steps: Int = Field(gt=0, le=MAX_STEPS, description="steps T of one training run")
    batch_size: Int = Field(gt=0, description="examples per step, taken in order and cycled")
    seed: Literal["fresh"] | Annotated[Int, Field(ge=0, lt=2**31)] = Field(
        "fresh",
        description="fresh: new initial weights in every meta-iteration; a number: the same every time",
    )
    dtype: Literal["float32", "float64"] = Field("float32", description="in which gradients are computed")


Axis = Literal["step", "group", "weight"]


class _Hyperparameter(_Strict):
    learn: Bool = False
    per: tuple[Axis, ...] = Field((), description="axes along which values differ; [] is one value for all")

    @field_validator("per")
    @classmethod
    def _no_repeats(cls, per: tuple[Axis, ...]) -> tuple[Axis, ...]:
        if len(set(per)) != len(per):
            raise ValueError("an axis is named twice; name each once")
        if "weight" in per and len(per) > 1:
            raise ValueError("'weight' already tells all weights apart; give it alone")
        return tuple(sorted(per, key=("step", "group", "weight").index))


class StepSize(_Hyperparameter):
    """α: how far a step goes along the velocity."""

    per: tuple[Literal["step", "group"], ...] = ()
    initial: Float = 0.1
    transform: Literal["log", "identity"] = "log"

    @model_validator(mode="after")
    def _in_domain(self) -> StepSize:
        return _require_positive_log(self)


class Momentum(_Hyperparameter):
    """γ: momentum decay, the share of the velocity kept in a step."""

    per: tuple[Literal["step", "group"], ...] = ()
    initial: Float = Field(0.9, ge=0, lt=1)
    transform: Literal["logit"] = "logit"

    @model_validator(mode="after")
    def _in_domain(self) -> Momentum:
        if self.learn and self.initial == 0:
            raise ValueError("initial 0 has no logit; start a learned momentum inside (0, 1)")
        return self


class InitScale(_Hyperparameter):
    """Standard deviation of the initial weights and biases."""

    per: tuple[Literal["group"], ...] = ()
    initial: Float = Field(0.1, ge=0)
    transform: Literal["log", "identity"] = "log"

    @model_validator(mode="after")
    def _in_domain(self) -> InitScale:
        return _require_positive_log(self)


class L2(_Hyperparameter):
    """λ: the inner loss gains the sum of λ·w² over all weights and biases."""

    per: tuple[Literal["group", "weight"], ...] = ()
    initial: Float = Field(0.0, ge=0)
    transform: Literal["log", "identity"] = "log"

    @model_validator(mode="after")
    def _in_domain(self) -> L2:
        return _require_positive_log(self)


_Scaled = TypeVar("_Scaled", StepSize, InitScale, L2)


def _require_positive_log(hyper: _Scaled) -> _Scaled:
    if hyper.learn and hyper.transform == "log" and hyper.initial <= 0:
        raise ValueError("a value learned through its log must start above 0; raise initial or use identity")
    return hyper


class Hyperparameters(_Strict):
    """What training depends on. Those with `learn` are found by gradient descent, the others stay put."""

    step_size: StepSize = StepSize()
    momentum: Momentum = Momentum()
    init_scale: InitScale = InitScale()
    l2: L2 = L2()

    @model_validator(mode="after")
    def _something_to_learn(self) -> Hyperparameters:
        if not any(getattr(self, name).learn for name in type(self).model_fields):
            raise ValueError("nothing to learn; set learn to true in at least one hyperparameter")
        return self


class StopWhen(_Strict):
    """Rules that end the meta-optimization early."""

    hypergradient_norm_grows: Float | None = Field(
        None, gt=1, description="stop when the norm exceeds this many times that of the first meta-iteration"
    )


class Meta(_Strict):
    """The outer loop."""

    optimizer: Literal["adam", "sgd"] = "adam"
    step_size: Float = Field(0.04, gt=0, description="in units of the learned, unconstrained values")
    num_iterations: Int = Field(50, gt=0, le=MAX_ITERATIONS)
    seeds_per_iteration: Int = Field(1, gt=0, le=1024, description="hypergradients averaged per meta-iteration")
    evaluation_seeds: Int = Field(
        4,
        gt=0,
        le=1024,
        description="seeds, the same before and after, on which initial, best and last "
        "hyperparameters are compared",
    )
    stop_when: StopWhen = StopWhen()


class Diagnostics(_Strict):
    """What to measure along the way; see `core.diagnostics`. Nothing that is learned depends on it."""

    every: Int = Field(
        0,
        ge=0,
        le=MAX_ITERATIONS,
        description="measure at every so manieth meta-iteration, the first included; 0: never",
    )
    adjoint_growth: Bool = Field(
        False, description="growth per step of the outer loss's derivative backward: chaos"
    )
    metasmoothness: Bool = Field(
        False, description="how smoothly training answers to a move as large as meta.step_size; three trainings"
    )
    finite_differences: Int = Field(
        0, ge=0, le=1024, description="directions along which the hypergradient is checked; two trainings each"
    )
    seeds: Int = Field(
        0,
        ge=0,
        le=1024,
        description="seeds over which the hypergradient's variance is taken; one hypergradient each",
    )

    @property
    def measures(self) -> bool:
        """Whether anything is asked for."""
        return self.adjoint_growth or self.metasmoothness or self.finite_differences > 0 or self.seeds > 0

    @model_validator(mode="after")
    def _measures_something(self) -> Diagnostics:
        if self.seeds == 1:
            raise ValueError("a variance over 1 seed is none; set seeds to 2 or more, or to 0 to leave it out")
        if self.measures and "every" not in self.model_fields_set:
            raise ValueError(
                "nothing would be measured; set every to 1 or more, or to 0 to say that this is meant"
            )
        if self.every and not self.measures:
            raise ValueError(
                "nothing to measure; set adjoint_growth, metasmoothness, finite_differences or seeds, or every to 0"
            )
        return self


class JobSpec(_Strict):
    """A meta-optimization job."""

    name: str = Field("", max_length=200)
    problem: ClassifierProblem
    training: Training
    hyperparameters: Hyperparameters
    meta: Meta = Meta()
    engine: Literal["auto", "reversible", "unrolled"] = "auto"
    diagnostics: Diagnostics = Diagnostics()

    @model_validator(mode="after")
    def _batch_fits(self) -> JobSpec:
        train = self.problem.dataset.split.train
        if self.training.batch_size > train:
            raise ValueError(
                f"training.batch_size {self.training.batch_size} exceeds problem.dataset.split.train {train}; "
                "lower the batch size or enlarge the split"
            )
        return self

    def sha256(self) -> str:
        """Digest of the canonical JSON of everything but the name."""
        document = self.model_dump(mode="json", exclude={"name"})
        return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
