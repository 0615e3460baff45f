"""What a specification's inner problem is made of, from the headers of its data alone. Loads no JAX."""

from __future__ import annotations

from core import alphabets, datasets
from core.architectures import groups_of_model
from core.errors import InvalidSpec
from core.hyperparameters import Group, groups_of
from core.spec import (
    CNN,
    ClassifierProblem,
    JobSpec,
    LabelledProblem,
    MultitaskProblem,
    OwnProblem,
    Transformer,
)


def groups_for(
    spec: JobSpec, uploaded: datasets.DatasetInfo | None = None, own: tuple[Group, ...] | None = None
) -> tuple[Group, ...]:
    """Parameter groups of the spec's inner problem.

    Args:
        spec: the job.
        uploaded: what is known of its data, where they were uploaded.
        own: of the program or installed problem that it is about, as that says itself.

    Raises:
        InvalidSpec: a data set is missing, damaged, or smaller than asked for; or a program was not given.
    """
    match spec.problem:
        case OwnProblem():
            if own is None:
                said = "of a program is known to the server it was uploaded to; here, run what it was made of"
                raise InvalidSpec((("problem", "id"), said))
            return own
        case LabelledProblem(dataset=dataset, model=model):
            info = datasets.describe_for(dataset, uploaded)
            _check_labels(spec, info)
            if spec.hyperparameters.augmentation is not None and not info.square:
                raise InvalidSpec(
                    (
                        ("hyperparameters", "augmentation"),
                        f"the images of {info.name} are not square; leave it out",
                    )
                )
            num_outputs = info.num_classes if isinstance(spec.problem, ClassifierProblem) else 1
            if isinstance(model, CNN | Transformer):
                return groups_of_model(model, info, num_outputs)
            return groups_of(spec.problem, info.num_features, num_outputs)
        case MultitaskProblem(dataset=dataset):
            alphabets.check(dataset)
            return groups_of(spec.problem, alphabets.SIDE**2, alphabets.OUTPUTS)
        case _:
            return groups_of(spec.problem, 0, 0)


def _check_labels(spec: JobSpec, info: datasets.DatasetInfo) -> None:
    """Classes for a classifier, numbers for a regression, and batches that can be balanced."""
    where = ("problem", "kind")
    if isinstance(spec.problem, ClassifierProblem):
        if not info.num_classes:
            raise InvalidSpec((where, f"{info.name} holds targets and no classes; fit it by kind 'regression'"))
    elif info.num_classes:
        raise InvalidSpec(
            (
                where,
                f"{info.name} holds classes and no targets; use kind 'classifier', or upload the numbers as `targets`, "
                'those of a table with "task": "regression"',
            )
        )
    size = spec.training.batch_size
    if spec.training.batches == "balanced" and size is not None and size % info.classes_present:
        raise InvalidSpec(
            (
                ("training", "batch_size"),
                f"{size} is no multiple of the {info.classes_present} classes of {info.name}, and batches are to be "
                "balanced; choose one that is",
            )
        )
