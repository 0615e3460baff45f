"""The outer loop: how hyperparameters are searched, descended on and measured."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from core.spec.base import Bool, Float, Int, Part

MAX_ITERATIONS = 10_000


class StopWhen(Part):
    """Rules that end the meta-optimization early."""

    hypergradient_norm_grows: Float | None = Field(
        None, gt=1, description="stop when the norm exceeds this many times that of the first meta-iteration"
    )


class Interval(Part):
    """Natural values that a search may try, evenly spread on the scale of the hyperparameter's transform."""

    low: Float
    high: Float

    @model_validator(mode="after")
    def _in_order(self) -> Interval:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}; swap them or widen the interval")
        return self


Searched = Literal["step_size", "momentum", "b1", "b2", "init_scale", "l2"]


class WarmStart(Part):
    """Search before the descent: one value for all of each hyperparameter; the descent starts from the best."""

    trials: Int = Field(gt=0, le=MAX_ITERATIONS, description="training runs, on seeds of their own")
    search: dict[Searched, Interval] = Field(
        min_length=1, description="what is searched, by tree-structured Parzen estimators"
    )


class Safeguard(Part):
    """Step back when the descent makes things worse on the evaluation seeds."""

    every: Int = Field(5, gt=0, le=MAX_ITERATIONS, description="meta-iterations between two looks")
    shrink: Float = Field(
        0.5,
        gt=0,
        lt=1,
        description="what the step is scaled by when the descent goes back to the best it has seen",
    )


class Meta(Part):
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
    momentum: Float = Field(0.0, ge=0, lt=1, description="of sgd: v ← γv + (1−γ)g, h ← h − step_size·v")
    clip: Float | None = Field(
        None, gt=0, description="hypergradients whose norm is larger are scaled down to this before the optimizer"
    )
    warm_start: WarmStart | None = None
    safeguard: Safeguard | None = None
    stop_when: StopWhen = StopWhen()

    @model_validator(mode="after")
    def _momentum_is_of_sgd(self) -> Meta:
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum is an option of sgd, not of {self.optimizer}; set it to 0 or choose sgd")
        return self


class Diagnostics(Part):
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

    naive_reversal: Bool = Field(
        False,
        description="how far reversal in ordinary floats ends from where training began, beside the exact one",
    )

    path: Bool = Field(False, description="the weights in every step of training; of the toy problem")

    @property
    def measures(self) -> bool:
        """Whether anything is asked for."""
        return (
            self.adjoint_growth
            or self.metasmoothness
            or self.naive_reversal
            or self.path
            or self.finite_differences > 0
            or self.seeds > 0
        )

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
                "nothing to measure; set adjoint_growth, metasmoothness, naive_reversal, path, finite_differences or "
                "seeds, or every to 0"
            )
        return self


class Scan(Part):
    """One hyperparameter set to value after value, all else as it is: loss and derivative at each."""

    hyperparameter: Searched
    values: tuple[Float, ...] | None = Field(
        None, min_length=1, max_length=MAX_ITERATIONS, description="natural values to visit"
    )
    start: Float | None = Field(
        None, ge=-1000, le=1000, description="or: the first unconstrained value (log or logit) of a grid"
    )
    stop: Float | None = Field(None, ge=-1000, le=1000, description="the last one")
    num: Int | None = Field(None, gt=1, le=MAX_ITERATIONS, description="how many there are")

    @model_validator(mode="after")
    def _one_way(self) -> Scan:
        grid = (self.start, self.stop, self.num)
        if (self.values is None) == all(part is None for part in grid) or (
            self.values is None and any(part is None for part in grid)
        ):
            raise ValueError("give either values, or start, stop and num")
        return self

    @property
    def num_points(self) -> int:
        """How many values are visited."""
        return len(self.values) if self.values is not None else self.num or 0


class Seeds(Part):
    """The hypergradient where the specification starts, over many seeds: its mean and spread."""

    count: Int = Field(100, gt=0, le=MAX_ITERATIONS)
