"""The inner problem that a specification asks for."""

from __future__ import annotations

from core import alphabets, datasets
from core.datasets import GivenData
from core.hyperparameters import layouts_of
from core.own_problems import GivenOwn
from core.problems.classifier import Classifier
from core.problems.inner import InnerProblem
from core.problems.multitask import Multitask
from core.problems.plugin import plugin_inner
from core.problems.program import program_inner
from core.problems.toy import Toy
from core.shapes import groups_for
from core.spec import JobSpec, LabelledProblem, MultitaskProblem


def inner_problem(spec: JobSpec, given: GivenData | GivenOwn | None = None) -> InnerProblem:
    """The spec's inner problem, with its data loaded.

    Args:
        spec: the job.
        given: its data, or the program that it is about with its data, where they were uploaded.

    Raises:
        InvalidSpec: a data set is missing, damaged, or smaller than asked for; or the program or installed problem is
            missing, or another than the job wants.
        InvalidProgram: it is damaged, or made of what is not run.
        PluginFailed: the package that brings the problem failed.
    """
    if spec.plugin is not None:
        return plugin_inner(spec, given if isinstance(given, GivenOwn) else GivenOwn())
    if isinstance(given, GivenOwn):
        return program_inner(spec, given)
    uploaded = None if given is None else given.info
    groups = groups_for(spec, uploaded)
    layouts = layouts_of(spec, groups)
    match spec.problem:
        case LabelledProblem(dataset=dataset):
            info = datasets.describe_for(dataset, uploaded)
            return Classifier(spec, groups, layouts, datasets.load(dataset, given), info)
        case MultitaskProblem(dataset=dataset):
            return Multitask(spec, groups, layouts, alphabets.load(dataset))
        case _:
            return Toy(spec, groups, layouts)
