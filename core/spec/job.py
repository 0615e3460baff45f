"""JobSpec, and what of its parts fits together."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import Field, model_validator

from core.spec.base import Part
from core.spec.digests import without_later_defaults
from core.spec.hyperparameters import (
    L2,
    Hyperparameter,
    Hyperparameters,
    InitScale,
    Inputs,
    Scheduled,
    StepSize,
    TaskMixing,
)
from core.spec.losses import Hinge
from core.spec.meta import Diagnostics, Meta, Scan, Seeds
from core.spec.problems import (
    ClassifierProblem,
    LabelledProblem,
    MultitaskProblem,
    OwnProblem,
    PluginProblem,
    Problem,
    ProgramProblem,
    UploadedDataset,
)
from core.spec.training import OPTIMIZERS, Training

MAX_PATH_STEPS = 10_000
MAX_DIAGNOSED = 1_000_000  # numbers that diagnostics keep of a job

_OF_PROBLEM: dict[str, dict[str, Hyperparameter]] = {
    "classifier": {"init_scale": InitScale(), "l2": L2()},
    "regression": {"init_scale": InitScale(), "l2": L2()},
    "multitask": {"init_scale": InitScale(), "l2": L2(), "task_mixing": TaskMixing(sharing=(0.0,))},
    "toy": {},
    "program": {},
    "plugin": {},
}
_ALSO_OF_PROBLEM = {
    "classifier": {"inputs", "labels", "example_weights", "augmentation", "initial_weights"},
    "regression": {"example_weights", "augmentation", "initial_weights"},
    "multitask": {"initial_weights"},
    "toy": set(),
    "program": set(),
    "plugin": set(),
}


_DOMAINS = {"log": "above 0", "logit": "inside (0, 1)"}
_NEVER_NEGATIVE = ("init_scale", "l2")  # whatever their transform


def _is_own(problem: Any) -> bool:
    kind = problem.get("kind") if isinstance(problem, dict) else getattr(problem, "kind", None)
    return kind in ("program", "plugin")


def _completed(given: Hyperparameter, default: Hyperparameter | None) -> Hyperparameter:
    """With the optimizer's own start where the specification leaves it out."""
    if isinstance(given, Scheduled) and isinstance(default, Scheduled) and "initial" not in given.model_fields_set:
        return given.model_copy(update={"initial": default.initial})
    return given


class JobSpec(Part):
    """A meta-optimization job."""

    name: str = Field("", max_length=200)
    kind: Literal["learn", "hypergradient", "scan"] = Field(
        "learn",
        description="learn: descend on the outer loss; hypergradient: its mean and spread over seeds, at the start; "
        "scan: loss and derivative along one hyperparameter",
    )
    problem: Problem
    training: Training
    hyperparameters: Hyperparameters = Field(
        default_factory=Hyperparameters.model_construct, description="left out of jobs about problems of one's own"
    )
    meta: Meta = Meta()
    seeds: Seeds = Field(Seeds(), description="of jobs of the kind hypergradient")
    scan: Scan | None = Field(None, description="of jobs of the kind scan")
    engine: Literal["auto", "reversible", "unrolled"] = "auto"
    diagnostics: Diagnostics = Diagnostics()

    @property
    def used(self) -> dict[str, Hyperparameter]:
        """All hyperparameters that training depends on, given or not, by name, in a fixed order."""
        given, defaults = self.hyperparameters.given, self._defaults
        if isinstance(self.problem, ClassifierProblem) and self.problem.synthetic_examples is not None:
            defaults["inputs"] = Inputs()
        if "initial_weights" in given:
            del defaults["init_scale"]
        return defaults | given

    @property
    def _defaults(self) -> dict[str, Hyperparameter]:
        if self.own is not None:
            return {}  # its schedule is its own
        return {**OPTIMIZERS[self.training.optimizer], **_OF_PROBLEM[self.problem.kind]}

    @property
    def num_iterations(self) -> int:
        """Records that the job yields, unless a rule ends it earlier."""
        if self.kind == "hypergradient":
            return self.seeds.count
        return self.meta.num_iterations if self.scan is None else self.scan.num_points

    @property
    def uploaded(self) -> UploadedDataset | None:
        """The uploaded data that it is about, if it is."""
        dataset = self.problem.dataset if isinstance(self.problem, LabelledProblem) else None
        return dataset if isinstance(dataset, UploadedDataset) else None

    def pinned(self, sha256: str) -> JobSpec:
        """The same about uploaded data of this digest: an id means something to one server only."""
        if self.uploaded is None:
            raise ValueError("the job is not about uploaded data")
        dataset = self.uploaded.model_copy(update={"sha256": sha256})
        return self.model_copy(update={"problem": self.problem.model_copy(update={"dataset": dataset})})

    @property
    def program(self) -> ProgramProblem | None:
        """The uploaded program that it is about, if it is."""
        return self.problem if isinstance(self.problem, ProgramProblem) else None

    @property
    def plugin(self) -> PluginProblem | None:
        """The installed problem that it is about, if it is."""
        return self.problem if isinstance(self.problem, PluginProblem) else None

    @property
    def own(self) -> OwnProblem | None:
        """The program or installed problem that it is about, if it is: one whose hyperparameters are its own."""
        return self.problem if isinstance(self.problem, OwnProblem) else None

    @property
    def has_uploads(self) -> bool:
        """Whether it needs bytes that were uploaded."""
        own = self.own
        return self.uploaded is not None or self.program is not None or (own is not None and bool(own.data))

    def pinned_own(self, shapes: dict[str, tuple[int, ...]], data_sha256: dict[str, str], **which: str) -> JobSpec:
        """The same about a problem whose hyperparameters have these shapes, on data of these digests.

        Args:
            shapes: of each hyperparameter.
            data_sha256: of each data set, by the problem's name for it.
            which: `sha256` of a program, `version` of an installed problem.
        """
        if self.own is None:
            raise ValueError("the job is not about a problem of its user's own")
        found = {"shapes": shapes, "data_sha256": data_sha256, **which}
        return self.model_copy(update={"problem": self.own.model_copy(update=found)})

    @model_validator(mode="before")
    @classmethod
    def _own_problems_have_theirs(cls, given: Any) -> Any:
        """A problem of one's own has hyperparameters of its own; those of a specification may be left out or empty."""
        if not isinstance(given, dict):
            return given
        if not _is_own(given.get("problem")):
            return {"hyperparameters": {}} | given  # where there is nothing to learn, as is then said
        hypers = given.get("hyperparameters")
        if isinstance(hypers, Hyperparameters):
            hypers = hypers.given
        if hypers is not None and not (isinstance(hypers, dict) and all(one is None for one in hypers.values())):
            raise ValueError(
                "hyperparameters: this problem has its own; leave the part out, and say in problem.learn and "
                "problem.initial which are learned and where they start"
            )
        return {name: part for name, part in given.items() if name != "hyperparameters"}

    @model_validator(mode="after")
    def _starts_are_said(self) -> JobSpec:
        """A start that is left out is the optimizer's own. It is written down: what is stored must say the same."""
        if self.own is not None:
            return self
        defaults = self._defaults
        if self.hyperparameters.step_size is None:  # as if it had been given empty
            object.__setattr__(
                self, "hyperparameters", self.hyperparameters.model_copy(update={"step_size": StepSize()})
            )
        said = {name: _completed(one, defaults.get(name)) for name, one in self.hyperparameters.given.items()}
        object.__setattr__(self, "hyperparameters", self.hyperparameters.model_copy(update=said))
        return self

    @model_validator(mode="after")
    def _batch_fits(self) -> JobSpec:
        problem, size = self.problem, self.training.batch_size
        if not isinstance(problem, LabelledProblem):
            if size is not None:
                takes = "what it says itself" if self.own is not None else "all data"
                raise ValueError(
                    f"training.batch_size: every step of a {problem.kind} problem takes {takes}; leave it out"
                )
        elif size is not None and size > problem.num_training_examples:
            made_up = isinstance(problem, ClassifierProblem) and problem.synthetic_examples is not None
            where = "synthetic_examples" if made_up else "dataset.split.train"
            raise ValueError(
                f"training.batch_size {size} exceeds problem.{where} {problem.num_training_examples}; "
                "lower the batch size or train on more examples"
            )
        return self

    @model_validator(mode="after")
    def _balance_fits(self) -> JobSpec:
        if self.training.batches == "in_order":
            return self
        if not isinstance(self.problem, ClassifierProblem):
            raise ValueError(
                f"training.batches: a {self.problem.kind} problem has no classes to balance; leave it out"
            )
        if self.problem.synthetic_examples is not None:
            raise ValueError(
                "training.batches: problem.synthetic_examples have the classes in turn as they are; leave it out"
            )
        if self.training.batch_size is None:
            raise ValueError(
                "training.batches: 'balanced' chooses what is in a batch, and every step takes all data; set "
                "training.batch_size to a multiple of the number of classes"
            )
        return self

    @model_validator(mode="after")
    def _engine_fits(self) -> JobSpec:
        if self.engine == "unrolled" and self.training.checkpoints > 1:
            raise ValueError(
                "training.checkpoints has no effect on the unrolled engine; leave it out or choose another engine"
            )
        return self

    @model_validator(mode="after")
    def _hyperparameters_fit(self) -> JobSpec:
        optimizer, problem, given = self.training.optimizer, self.problem, self.hyperparameters.given
        known = {*OPTIMIZERS[optimizer], *_OF_PROBLEM[problem.kind], *_ALSO_OF_PROBLEM[problem.kind]}
        for name in given:
            if name not in known:
                raise ValueError(
                    f"hyperparameters.{name} is read neither by {optimizer} nor by a {problem.kind} problem; leave it "
                    f"out. There are {', '.join(sorted(known))}"
                )
        if "initial_weights" in given and "init_scale" in given:
            raise ValueError(
                "hyperparameters.init_scale has no effect beside initial_weights, whose scale says where they start; "
                "leave one of the two out"
            )
        if "inputs" in given and isinstance(problem, ClassifierProblem) and problem.synthetic_examples is None:
            raise ValueError(
                "hyperparameters.inputs are the inputs of made-up examples; set problem.synthetic_examples to how many"
            )
        if isinstance(problem, ClassifierProblem) and problem.synthetic_examples and problem.dataset.corrupted:
            raise ValueError(
                "problem.dataset.corrupted spoils labels that nothing trains on beside problem.synthetic_examples; "
                "leave one of the two out"
            )
        if "labels" in given and isinstance(problem, ClassifierProblem) and isinstance(problem.loss, Hinge):
            raise ValueError(
                "hyperparameters.labels make distributions of classes, which problem.loss 'hinge' has no use for; "
                "leave it out or use cross_entropy"
            )
        if (
            "augmentation" in given
            and isinstance(problem, LabelledProblem)
            and problem.dataset.standardise != "none"
        ):
            raise ValueError(
                "hyperparameters.augmentation moves images whose pixels are all of one scale; leave "
                "problem.dataset.standardise out"
            )
        if "augmentation" in given and isinstance(problem, ClassifierProblem) and problem.synthetic_examples:
            raise ValueError(
                "hyperparameters.augmentation moves images of a data set; leave it out beside synthetic_examples"
            )
        return self

    @model_validator(mode="after")
    def _own_problem_fits(self) -> JobSpec:
        if self.own is None:
            return self
        if self.training.dtype != "float32":
            raise ValueError(
                "training.dtype has no effect: the parameters of this problem have types of their own; leave it out"
            )
        if self.kind == "scan":
            raise ValueError(
                "kind 'scan' visits values of hyperparameters that all problems share, and this one has its own; "
                "learn, or take its hypergradient"
            )
        if self.meta.warm_start is not None:
            raise ValueError(
                "meta.warm_start searches hyperparameters that all problems share, and this one has its own; "
                "leave it out, and say in problem.initial where to start"
            )
        return self

    @model_validator(mode="after")
    def _task_mixing_fits(self) -> JobSpec:
        mixing = self.hyperparameters.task_mixing
        if isinstance(self.problem, MultitaskProblem) and mixing is not None:
            layers = len(self.problem.model.hidden) + 1
            if len(mixing.sharing) not in (1, layers):
                raise ValueError(
                    f"hyperparameters.task_mixing.sharing has {len(mixing.sharing)} values for {layers} layers; "
                    "give one for all or one for each"
                )
        return self

    @model_validator(mode="after")
    def _kind_fits(self) -> JobSpec:
        if self.diagnostics.path and self.problem.kind != "toy":
            raise ValueError(
                "diagnostics.path keeps all weights of every step; only the toy problem has few enough"
            )
        if self.diagnostics.path and self.training.num_steps > MAX_PATH_STEPS:
            raise ValueError(f"diagnostics.path keeps {MAX_PATH_STEPS} steps at most; lower training.num_steps")
        self._diagnostics_are_bounded()
        self._only_descents_are_guided()
        if self.kind != "learn" and self.meta.warm_start is not None:
            raise ValueError(
                f"meta.warm_start comes before a descent, and {self.kind} jobs have none; leave it out"
            )
        if self.kind == "hypergradient" and self.meta.seeds_per_iteration > 1:
            raise ValueError("meta.seeds_per_iteration must be 1 here: seeds.count says over how many seeds")
        if self.kind == "hypergradient" and self.seeds.count > 1 and self.training.seed != "fresh":
            raise ValueError(
                "training.seed is the same for all of seeds.count; set it to 'fresh', or seeds.count to 1"
            )
        if (self.kind == "scan") != (self.scan is not None):
            raise ValueError("kind 'scan' and the part `scan` belong together; give both or neither")
        if self.scan is not None:
            self._one_value_of("scan.hyperparameter", self.scan.hyperparameter)
            if not self.used[self.scan.hyperparameter].learn:
                raise ValueError(
                    f"scan.hyperparameter {self.scan.hyperparameter} is not differentiated; set its learn to true"
                )
            self._in_domain("scan.values", self.scan.hyperparameter, self.scan.values or ())
        for name, interval in self.meta.warm_start.search.items() if self.meta.warm_start is not None else ():
            self._one_value_of("meta.warm_start.search", name)
            if not self.used[name].learn:
                raise ValueError(
                    f"meta.warm_start.search: {name} is not learned; set its learn to true or drop it"
                )
            self._in_domain("meta.warm_start.search", name, (interval.low, interval.high))
        return self

    def _diagnostics_are_bounded(self) -> None:
        """What is kept of a job in rows must fit into the memory that draws it."""
        asked = self.diagnostics
        if not asked.every:
            return
        each = asked.finite_differences + (2 * (self.training.num_steps + 1) if asked.path else 0)
        times = -(-self.num_iterations // asked.every)
        if each * times > MAX_DIAGNOSED:
            raise ValueError(
                f"diagnostics would keep {each * times} numbers, more than {MAX_DIAGNOSED}; raise diagnostics.every"
            )

    def _only_descents_are_guided(self) -> None:
        if self.kind == "learn":
            return
        for name in ("clip", "safeguard"):
            if getattr(self.meta, name) is not None:
                raise ValueError(f"meta.{name} guides a descent, and {self.kind} jobs have none; leave it out")
        if self.meta.stop_when.hypergradient_norm_grows is not None:
            raise ValueError(
                f"meta.stop_when.hypergradient_norm_grows ends a descent, and {self.kind} jobs have none; leave it out"
            )

    def _in_domain(self, where: str, name: str, values: tuple[float, ...]) -> None:
        transform = self.used[name].transform
        for value in values:
            if transform != "identity" and value <= 0:
                raise ValueError(f"{where}: {name} cannot be {value:g}; give values {_DOMAINS[transform]}")
            if name in _NEVER_NEGATIVE and value < 0:
                raise ValueError(f"{where}: {name} cannot be {value:g}; give values of 0 or more")
            if transform == "logit" and value >= 1:
                raise ValueError(f"{where}: {name} cannot be {value:g}; give values {_DOMAINS[transform]}")

    def _one_value_of(self, where: str, name: str) -> None:
        if name not in self.used:
            raise ValueError(
                f"{where}: {name} is not a hyperparameter of this job; there are {', '.join(self.used)}"
            )

    def sha256(self) -> str:
        """Digest of the canonical JSON of everything but the name, and ids beside which a digest stands."""
        unneeded: dict[str, Any] = {"name": True}
        if self.uploaded is not None and self.uploaded.sha256 is not None:
            unneeded["problem"] = {"dataset": {"id"}}
        if self.own is not None:
            unneeded["problem"] = {"shapes"}  # follow from the problem
            if self.program is not None and self.program.sha256 is not None:
                unneeded["problem"] |= {"id"}
            if self.own.data_sha256 is not None:
                unneeded["problem"] |= {"data"}
        document = without_later_defaults(self.model_dump(mode="json", exclude=unneeded))
        return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
