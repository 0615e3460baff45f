"""Kinds of problems that jobs may be about, with their JSON Schema."""

from __future__ import annotations

from functools import cache
from inspect import cleandoc
from typing import get_args

from fastapi import APIRouter
from pydantic import BaseModel

from api.deps import ProjectDep
from api.schemas.problem_kinds import ProblemKindList, ProblemKindRead
from core import plugins
from core.plugins import Installed
from core.spec import PluginProblem, Problem

router = APIRouter(prefix="/v1/problem-kinds", tags=["presets"])


@router.get("", summary="List kinds of problems")
def list_problem_kinds(project: ProjectDep) -> ProblemKindList:
    """What `problem` in a job may be: the service's own kinds, and those that installed packages bring."""
    return ProblemKindList(data=list(_known()))


@cache
def _known() -> tuple[ProblemKindRead, ...]:
    own: tuple[type[BaseModel], ...] = get_args(get_args(Problem)[0])
    ours = [_ours(model) for model in own if model is not PluginProblem]
    return (*ours, *(_theirs(one) for one in plugins.installed().values()))


def _ours(model: type[BaseModel]) -> ProblemKindRead:
    (kind,) = get_args(model.model_fields["kind"].annotation)
    return ProblemKindRead(
        kind=kind,
        name=None,
        package=None,
        version=None,
        description=cleandoc(model.__doc__ or ""),
        json_schema=model.model_json_schema(),
        error=None,
    )


def _theirs(one: Installed) -> ProblemKindRead:
    return ProblemKindRead(
        kind="plugin",
        name=one.name,
        package=one.package,
        version=one.version,
        description="" if one.kind is None else one.kind.description or cleandoc(type(one.kind).__doc__ or ""),
        json_schema=None if one.kind is None else plugins.schema_of(one),
        error=one.error,
    )
