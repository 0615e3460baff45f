"""The inner problem that a specification asks for."""

from __future__ import annotations

from core import alphabets, datasets
from core.hyperparameters import layouts_of
from core.problems.classifier import Classifier
from core.problems.inner import InnerProblem
from core.problems.multitask import Multitask
from core.problems.toy import Toy
from core.shapes import groups_for
from core.spec import ClassifierProblem, JobSpec, MultitaskProblem


def inner_problem(spec: JobSpec) -> InnerProblem:
    """The spec's inner problem, with its data loaded.

    Raises:
        InvalidSpec: a data set is missing, damaged, or smaller than asked for.
    """
    groups = groups_for(spec)
    layouts = layouts_of(spec, groups)
    match spec.problem:
        case ClassifierProblem(dataset=dataset):
            return Classifier(spec, groups, layouts, datasets.load(dataset))
        case MultitaskProblem(dataset=dataset):
            return Multitask(spec, groups, layouts, alphabets.load(dataset))
        case _:
            return Toy(spec, groups, layouts)
