"""Inner problems: what is trained, on which data, and what the outer problem asks of it."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, JsonValue, Tag, field_validator, model_validator

from core.spec.base import Bool, Float, Int, Part
from core.spec.losses import ClassLoss, CrossEntropy, NumberLoss, Squared
from core.spec.models import MLP, DenseModel, LogisticRegression, Model

MAX_EXAMPLES = 1_000_000
MAX_LEAVES = 256
MAX_INITIAL = 100_000
MAX_SETTINGS = 65_536
MAX_SETS = 16
DATASET_ID = r"^ds_[0-9a-f]{24}$"

_MAX_DEPTH = 32
_MOST_EXACT = 2**53

DatasetName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
DatasetId = Annotated[str, Field(pattern=DATASET_ID)]
ProgramId = Annotated[str, Field(pattern=r"^pr_[0-9a-f]{24}$")]
PluginName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
PluginVersion = Annotated[str, Field(pattern=r"^[0-9A-Za-z.+!_-]{1,64}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
LeafName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$")]
_Row = tuple[Float, ...]
Initial = Float | _Row | tuple[_Row, ...]
Corrupted = Annotated[
    Float,
    Field(
        ge=0,
        le=1,
        description="share of the training labels that are replaced by another class, by a fixed draw: data to clean",
    ),
]
OuterLoss = Annotated[
    Literal["train", "valid"],
    Field(description="mean loss of the trained model over the whole of this part"),
]
Standardise = Annotated[
    Literal["none", "features", "all"],
    Field(
        description="features: each is divided by its standard deviation over the training part, so that it is 1; all: "
        "and so are the targets of a regression, less their mean; losses are then in those units, measures are not"
    ),
]


class Split(Part):
    """Examples in each part, drawn without overlap by a fixed shuffle of the data set."""

    train: Int = Field(gt=0, description="examples that the inner problem trains on")
    valid: Int = Field(gt=0, description="examples of the validation loss")
    test: Int = Field(gt=0, description="examples that nothing is fitted to")

    @property
    def total(self) -> int:
        """Examples needed in all."""
        return self.train + self.valid + self.test


class Dataset(Part):
    """Data by name, and how they are divided."""

    name: DatasetName = Field(description="digits, or a folder of the data folder")
    split: Split
    corrupted: Corrupted = 0.0
    standardise: Standardise = "none"


class UploadedDataset(Part):
    """Data that were uploaded to the job's project, and how they are divided."""

    id: DatasetId = Field(description="as POST /v1/datasets has answered")
    sha256: Sha256 | None = Field(
        None, description="of the data; added when the job is created, and checked where it is given"
    )
    split: Split
    corrupted: Corrupted = 0.0
    standardise: Standardise = "none"

    @model_validator(mode="before")
    @classmethod
    def _named_once(cls, given: Any) -> Any:
        if isinstance(given, dict) and "name" in given:
            raise ValueError(
                "has an id and a name; give the id of uploaded data, or the name of data that are here"
            )
        return given


def _named_how(given: Any) -> str:
    by_id = isinstance(given, UploadedDataset) or (isinstance(given, dict) and "id" in given)
    return "by_id" if by_id else "by_name"


AnyDataset = Annotated[
    Annotated[Dataset, Tag("by_name")] | Annotated[UploadedDataset, Tag("by_id")], Discriminator(_named_how)
]


class LabelledProblem(Part):
    """Fit a model to examples, each with what it should say of it."""

    kind: str
    dataset: AnyDataset
    model: Model
    loss: Part
    outer_loss: OuterLoss = "valid"

    @property
    def num_training_examples(self) -> int:
        """What the inner problem trains on."""
        return self.dataset.split.train


class ClassifierProblem(LabelledProblem):
    """Fit a classifier."""

    kind: Literal["classifier"]
    loss: ClassLoss = CrossEntropy(kind="cross_entropy")
    synthetic_examples: Int | None = Field(
        None,
        gt=0,
        le=MAX_EXAMPLES,
        description="train on this many made-up examples in place of the training part, labelled with the classes in "
        "turn; their inputs are the hyperparameter `inputs`",
    )

    @property
    def num_training_examples(self) -> int:
        """What the inner problem trains on."""
        return self.dataset.split.train if self.synthetic_examples is None else self.synthetic_examples

    @model_validator(mode="after")
    def _has_no_targets(self) -> ClassifierProblem:
        if self.dataset.standardise == "all":
            raise ValueError("dataset.standardise: classes are no numbers to divide; set it to 'features'")
        if self.synthetic_examples is not None and not isinstance(self.model, LogisticRegression | MLP):
            raise ValueError(
                f"synthetic_examples: made-up inputs are of no shape that a {self.model.kind} could look at; use "
                "logistic_regression or mlp, or leave it out"
            )
        return self


class RegressionProblem(LabelledProblem):
    """Fit numbers, the targets of uploaded data."""

    kind: Literal["regression"]
    loss: NumberLoss = Squared(kind="squared")

    @model_validator(mode="after")
    def _has_no_classes(self) -> RegressionProblem:
        if self.dataset.corrupted:
            raise ValueError("dataset.corrupted replaces classes by others, and targets have none; leave it out")
        return self


class Alphabets(Part):
    """Omniglot alphabets, a task each, and how the drawings of every character are divided."""

    name: DatasetName = Field(
        "omniglot", description="a folder of the data folder that holds Omniglot's zip files"
    )
    alphabets: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_().-]{1,64}$")], ...] = Field(
        ("Balinese", "Early_Aramaic", "Greek", "Korean", "Latin"), min_length=1, max_length=50
    )
    rotated: Bool = Field(True, description="take each alphabet a second time, turned by 90°, as another task")
    train: Int = Field(12, gt=1, le=18, description="drawings of a character to train on, those held out included")
    valid: Int = Field(2, gt=0, le=17, description="of these, held out for the outer loss, drawn anew each time")
    test: Int = Field(3, gt=0, le=18, description="drawings of a character that nothing is fitted to")

    @model_validator(mode="after")
    def _drawers_suffice(self) -> Alphabets:
        if self.train + self.test > 20:
            raise ValueError(
                f"train + test is {self.train + self.test}, but 20 people drew each character; lower them"
            )
        if self.valid >= self.train:
            raise ValueError(f"valid {self.valid} leaves none of train {self.train} to train on; lower valid")
        return self

    @property
    def num_tasks(self) -> int:
        """One network for each."""
        return len(self.alphabets) * (2 if self.rotated else 1)


class MultitaskProblem(Part):
    """A network of one shape for each alphabet, trained together; `task_mixing` says how much they share."""

    kind: Literal["multitask"]
    dataset: Alphabets = Alphabets()
    model: DenseModel
    outer_loss: OuterLoss = "valid"


class ToyProblem(Part):
    """Two weights in a valley: small enough to draw. Training, validation and test loss are the same."""

    kind: Literal["toy"]
    start: tuple[Float, Float] = Field((1.4, 3.9), description="weights before the first step")


class OwnProblem(Part):
    """A problem of the user's own functions. What it learns are its own hyperparameters, on their raw values: its
    functions transform them.
    """

    kind: str
    data: dict[LeafName, DatasetId] = Field(
        {}, max_length=MAX_SETS, description="uploaded data sets, by the names under which the problem takes them"
    )
    data_sha256: dict[LeafName, Sha256] | None = Field(
        None, description="of these data; added when the job is created, and checked where it is given"
    )
    learn: tuple[LeafName, ...] | None = Field(
        None,
        min_length=1,
        max_length=MAX_LEAVES,
        description="hyperparameters of the problem that are learned; all of them unless given",
    )
    initial: dict[LeafName, Initial] = Field(
        {},
        max_length=MAX_LEAVES,
        description="where hyperparameters start, if elsewhere than the problem has it: one number for all, or as many "
        "as there are, in nested lists",
    )
    shapes: dict[LeafName, tuple[Annotated[Int, Field(ge=0)], ...]] | None = Field(
        None, max_length=MAX_LEAVES, description="of the problem's hyperparameters; added when the job is created"
    )

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        if self.learn is not None and len(set(self.learn)) != len(self.learn):
            raise ValueError("learn names a hyperparameter twice; name each once")
        if self.data_sha256 is not None and set(self.data_sha256) != set(self.data):
            raise ValueError(
                "data_sha256 has other names than data; give a digest for each data set, or leave them out"
            )
        return self

    @model_validator(mode="after")
    def _initial_is_bounded(self) -> Self:
        given = sum(_count(one) for one in self.initial.values())
        if given > MAX_INITIAL:
            raise ValueError(
                f"initial holds {given} numbers, more than {MAX_INITIAL}; have the problem start with these"
            )
        return self

    def learns(self, name: str) -> bool:
        """Whether this hyperparameter is learned."""
        return self.learn is None or name in self.learn


class ProgramProblem(OwnProblem):
    """An exported JAX program that was uploaded to the job's project."""

    kind: Literal["program"]
    id: ProgramId = Field(description="as POST /v1/programs has answered")
    sha256: Sha256 | None = Field(
        None, description="of the program; added when the job is created, and checked where it is given"
    )


class PluginProblem(OwnProblem):
    """A problem of a kind that a package brings, installed beside the service."""

    kind: Literal["plugin"]
    name: PluginName = Field(description="of the kind, as GET /v1/problem-kinds lists it")
    version: PluginVersion | None = Field(
        None, description="of its package; added when the job is created, and checked where it is given"
    )
    settings: dict[str, JsonValue] = Field({}, description="what the kind asks for; its JSON Schema says what")

    @field_validator("settings")
    @classmethod
    def _settings_are_kept(cls, settings: dict[str, JsonValue]) -> dict[str, JsonValue]:
        kept = {_text(name): _as_kept(one, 1) for name, one in settings.items()}
        if len(json.dumps(kept)) > MAX_SETTINGS:
            raise ValueError(f"is longer than {MAX_SETTINGS} characters; upload large data as a data set")
        return kept


def _as_kept(value: JsonValue, depth: int) -> JsonValue:
    """As a database gives it back: whole numbers are integers, so that the digest stays what it is."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"is nested more than {_MAX_DEPTH} deep; make it flatter")
    match value:
        case dict():
            return {_text(name): _as_kept(one, depth + 1) for name, one in value.items()}
        case list():
            return [_as_kept(one, depth + 1) for one in value]
        case str():
            return _text(value)
        case bool() | None:
            return value
        case int():
            if abs(value) > _MOST_EXACT:
                raise ValueError(f"holds a whole number beyond {_MOST_EXACT}; give it as text")
            return value
        case float():
            if not math.isfinite(value) or abs(value) > _MOST_EXACT:
                raise ValueError(f"holds {value:g}; give finite numbers, up to {_MOST_EXACT}")
            return int(value) if value.is_integer() else value


def _text(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL character, which cannot be kept; remove it")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("holds half of a surrogate pair, which is no character; remove it")
    return text


def _count(initial: Initial) -> int:
    return 1 if isinstance(initial, int | float) else sum(map(_count, initial))


Problem = Annotated[
    ClassifierProblem | RegressionProblem | MultitaskProblem | ToyProblem | ProgramProblem | PluginProblem,
    Field(discriminator="kind"),
]
