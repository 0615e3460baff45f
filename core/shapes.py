"""What a specification's inner problem is made of, from the headers of its data alone. Loads no JAX."""

from __future__ import annotations

from core import alphabets, datasets
from core.errors import InvalidSpec
from core.hyperparameters import Group, groups_of
from core.programs.fitting import check_fits
from core.programs.manifest import Manifest
from core.spec import ClassifierProblem, JobSpec, MultitaskProblem, ProgramProblem


def groups_for(
    spec: JobSpec, uploaded: datasets.DatasetInfo | None = None, program: Manifest | None = None
) -> tuple[Group, ...]:
    """Parameter groups of the spec's inner problem.

    Args:
        spec: the job.
        uploaded: what is known of its data, where they were uploaded.
        program: what the program that it is about says of itself.

    Raises:
        InvalidSpec: a data set is missing, damaged, or smaller than asked for; or the program is missing, or another
            than the job wants.
    """
    match spec.problem:
        case ProgramProblem(id=name):
            if program is None:
                said = f"{name} is known to the server it was uploaded to; here, run the functions it was made of"
                raise InvalidSpec((("problem", "id"), said))
            check_fits(spec, program)
            return tuple(Group(leaf.name, leaf.shape) for leaf in program.params)
        case ClassifierProblem(dataset=dataset):
            info = datasets.describe_for(dataset, uploaded)
            if spec.hyperparameters.augmentation is not None and not info.square:
                raise InvalidSpec(
                    (
                        ("hyperparameters", "augmentation"),
                        f"the images of {info.name} are not square; leave it out",
                    )
                )
            return groups_of(spec.problem, info.num_features, info.num_classes)
        case MultitaskProblem(dataset=dataset):
            alphabets.check(dataset)
            return groups_of(spec.problem, alphabets.SIDE**2, alphabets.OUTPUTS)
        case _:
            return groups_of(spec.problem, 0, 0)
