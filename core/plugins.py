"""Problems that packages bring: installed beside the service by whoever runs it, who trusts them. Loads no JAX.

A package names each under the entry point group `retrograd.problems`. `docs/how-to/write-a-problem-kind.md` tells how.
"""

from __future__ import annotations

import abc
import logging
import operator
from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model

from core.datasets import DatasetInfo, GivenData
from core.errors import InvalidSpec, PluginFailed
from core.hyperparameters import Group
from core.own_problems import misfits
from core.spec import JobSpec, PluginProblem
from core.spec.problems import DATASET_ID, MAX_LEAVES, MAX_SETS, LeafName, PluginName, PluginVersion

if TYPE_CHECKING:
    from core.engines import Problem

GROUP = "retrograd.problems"

_MOST_SAID = 300  # characters
_T = TypeVar("_T")

log = logging.getLogger(__name__)


class NoSettings(BaseModel):
    """Of a kind that asks for nothing."""

    model_config = ConfigDict(extra="forbid")


class Asked(NamedTuple):
    """What a job asks of a kind of problem.

    Attributes:
        settings: an instance of the kind's `Settings`.
        num_steps: T, steps of one training run.
        optimizer: the inner one, such as "sgd".
        data: sizes of the uploaded data sets that the job names, by the kind's names for them.
    """

    settings: Any
    num_steps: int
    optimizer: str
    data: dict[str, DatasetInfo]


class ProblemKind(abc.ABC):
    """A kind of problem. Its module is loaded by the API, which has no use for JAX: import that in `problem`.

    What its methods raise as a ValueError is told to the user as a mistake in `problem.settings`; anything else as a
    failure of the package.
    """

    description: ClassVar[str] = ""
    Settings: ClassVar[type[BaseModel]] = NoSettings
    data: ClassVar[tuple[str, ...]] = ()
    """Names under which it takes uploaded data sets."""

    @abc.abstractmethod
    def params(self, asked: Asked) -> dict[str, tuple[int, ...]]:
        """Shape of each elementary parameter, by name."""

    @abc.abstractmethod
    def hyper(self, asked: Asked) -> dict[str, Any]:
        """Where each hyperparameter starts, by name: arrays of float64, or what becomes such.

        Bound what `Settings` may ask for: the limit on a job's hyperparameters is held against what this returns.
        """

    @abc.abstractmethod
    def problem(self, asked: Asked, data: dict[str, GivenData]) -> Problem:
        """The functions, of dicts of arrays by these names. Deterministic: a job's specification decides every bit."""

    def metrics(self, asked: Asked, data: dict[str, GivenData]) -> Callable[..., dict[str, Any]] | None:
        """(params, hyper, key) → {name: number}, reported of trained parameters; None: there is nothing to say."""
        return None


class Installed(NamedTuple):
    """What an entry point leads to.

    Attributes:
        name: of the kind.
        package, version: that bring it.
        kind: None where it cannot be used.
        error: why not.
    """

    name: str
    package: str
    version: str
    kind: ProblemKind | None
    error: str | None

    def failed(self, why: str) -> PluginFailed:
        """The error that blames the package."""
        return PluginFailed(self.name, self.package, self.version, why)


class Described(NamedTuple):
    """What a job about an installed problem is made of."""

    version: str
    kind: ProblemKind
    asked: Asked
    groups: tuple[Group, ...]
    initial: dict[str, np.ndarray]  # float64, by name

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the hyperparameters."""
        return {name: array.shape for name, array in self.initial.items()}


@cache
def installed() -> dict[str, Installed]:
    """All kinds that packages bring here, usable or not, by name. They are loaded once in a process."""
    found: dict[str, Installed] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, _package(point)[0])):
        one = _installed(point)
        if (other := found.get(one.name)) is not None and other.package != one.package:
            one = one._replace(kind=None, error=f"{other.package} and {one.package} both bring it; uninstall one")
        if one.error is not None:
            log.error("the problem kind %s of %s %s: %s", one.name, one.package, one.version, one.error)
        found[one.name] = one
    return found


def _package(point: EntryPoint) -> tuple[str, str]:
    return ("", "") if point.dist is None else (point.dist.name, point.dist.version)


def _installed(point: EntryPoint) -> Installed:
    package, version = _package(point)
    try:
        TypeAdapter(PluginName).validate_python(point.name)
        TypeAdapter(PluginVersion).validate_python(version)
        loaded = point.load()
        kind = loaded() if isinstance(loaded, type) else loaded
        if not isinstance(kind, ProblemKind):
            raise TypeError(f"{point.value} is no ProblemKind; have it derive from retrograd.ProblemKind")
        if not isinstance(kind.data, tuple):
            raise TypeError(f"data is {kind.data!r}; give a tuple of names")
        if len(kind.data) > MAX_SETS:
            raise TypeError(f"data names more than {MAX_SETS} data sets; join some")
        for name in kind.data:
            _named("data", name)
        schema_of(found := Installed(point.name, package, version, kind, None))
    except Exception as error:  # whatever it is, it must not keep the service from starting
        return Installed(point.name, package, version, None, _said(error))
    return found


def kind_of(problem: PluginProblem) -> tuple[ProblemKind, Installed]:
    """The kind that a job names.

    Raises:
        InvalidSpec: it is not installed here, or in another version than the job is about.
        PluginFailed: it is, but cannot be used.
    """
    one = installed().get(problem.name)
    if one is None:
        known = ", ".join(name for name, one in installed().items() if one.kind is not None) or "none"
        said = f"no problem kind {problem.name!r} is installed; there is {known}"
        raise InvalidSpec((("problem", "name"), said))
    if one.kind is None:
        raise one.failed(str(one.error))
    if problem.version not in (None, one.version):
        said = f"the job is about {problem.version}, and {one.package} {one.version} is installed"
        raise InvalidSpec((("problem", "version"), f"{said}; leave it out, or have that version installed"))
    return one.kind, one


def describe(spec: JobSpec, data: dict[str, DatasetInfo]) -> Described:
    """What the job is made of, checked against what it says of it.

    Args:
        spec: a job about an installed problem.
        data: sizes of its data sets, by the kind's names for them.

    Raises:
        InvalidSpec: it asks for what the kind is not; names the field.
        PluginFailed: the kind failed.
    """
    problem = spec.plugin
    assert problem is not None  # noqa: S101 - for the type checker
    kind, one = kind_of(problem)
    if set(data) != set(kind.data):
        takes = ", ".join(kind.data) or "none"
        said = f"{one.name} takes data named {takes}; name an uploaded data set for each, and no others"
        raise InvalidSpec((("problem", "data"), said))
    settings = told(problem, lambda: _settings(kind, problem))
    asked = Asked(settings, spec.training.num_steps, spec.training.optimizer, data)
    params, hyper = told(problem, lambda: (kind.params(asked), kind.hyper(asked)))
    groups, initial = blamed(problem, lambda: (_groups(params), _initial(hyper)))
    described = Described(one.version, kind, asked, groups, initial)
    if errors := misfits(problem, described.shapes):
        raise InvalidSpec(*errors)
    return described


def _settings(kind: ProblemKind, problem: PluginProblem) -> BaseModel:
    try:
        return kind.Settings.model_validate(problem.settings, extra="forbid")
    except ValidationError as error:
        mistakes = error.errors(include_url=False, include_context=False)
        raise InvalidSpec(
            *((("problem", "settings", *wrong["loc"]), wrong["msg"]) for wrong in mistakes)
        ) from error


def told(problem: PluginProblem, work: Callable[[], _T]) -> _T:
    """What the package's code returns, which may find the settings wrong.

    Raises:
        InvalidSpec: it did.
        PluginFailed: it failed.
    """

    def heard() -> _T:
        try:
            return work()
        except ValueError as error:
            log.warning("the problem kind %s refused its settings", problem.name, exc_info=error)
            raise InvalidSpec((("problem", "settings"), _cut(f"{problem.name} says: {error}"))) from error

    return blamed(problem, heard)


def blamed(problem: PluginProblem, work: Callable[[], _T]) -> _T:
    """What the package's code returns.

    Raises:
        PluginFailed: it failed, in whatever way but by a want of memory or a lost device.
    """
    try:
        return work()
    except (InvalidSpec, PluginFailed, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        if type(error).__name__ == "JaxRuntimeError":  # of the device; its name, as nothing here loads JAX
            raise
        one = installed()[problem.name]
        log.exception("the problem kind %s of %s %s failed", one.name, one.package, one.version)
        raise one.failed(_said(error)) from error


def schema_of(one: Installed) -> dict[str, Any]:
    """JSON Schema of `problem` in jobs about a usable kind."""
    assert one.kind is not None  # noqa: S101 - for the type checker
    strict: type[BaseModel] = type("Settings", (one.kind.Settings,), {"model_config": ConfigDict(extra="forbid")})
    required = any(field.is_required() for field in strict.model_fields.values())
    model = create_model(
        "PluginProblem",
        __base__=PluginProblem,
        name=(Literal[one.name], ...),  # type: ignore[arg-type]
        settings=(strict, ...) if required else (strict, {}),
    )
    schema = model.model_json_schema()
    names = list(one.kind.data)
    one_id = {"type": "string", "pattern": DATASET_ID}
    schema["properties"]["data"] = {
        "type": "object",
        "properties": dict.fromkeys(names, one_id),
        "required": names,
        "additionalProperties": False,
        "description": "uploaded data sets, by the names under which the kind takes them",
    }
    if names:
        schema["required"] = [*schema["required"], "data"]
    return schema


def _groups(params: dict[str, tuple[int, ...]]) -> tuple[Group, ...]:
    if not params:
        raise TypeError("params names no parameter; there must be something to train")
    return tuple(
        Group(_named("params", name), tuple(_extent(name, one) for one in params[name])) for name in sorted(params)
    )


def _extent(name: str, size: Any) -> int:
    if (found := operator.index(size)) < 0:
        raise TypeError(f"params[{name!r}] has an axis of {found}")
    return found


def _initial(hyper: dict[str, Any]) -> dict[str, np.ndarray]:
    if not hyper:
        raise TypeError("hyper names no hyperparameter; there must be something to learn")
    if len(hyper) > MAX_LEAVES:
        raise TypeError(f"hyper names more than {MAX_LEAVES} hyperparameters; join some in an array")
    found = {_named("hyper", name): np.asarray(hyper[name], np.float64) for name in sorted(hyper)}
    for name, array in found.items():
        if not np.isfinite(array).all():
            raise TypeError(f"hyper[{name!r}] starts with what is not finite")
    return found


def _named(whose: str, name: Any) -> str:
    try:
        return str(TypeAdapter(LeafName).validate_python(name))
    except ValidationError as error:
        said = f"{whose} has the name {name!r}; letters, digits, '_', '-' and '.' can be used, 64 at most"
        raise TypeError(said) from error


def _said(error: BaseException) -> str:
    try:
        return _cut(f"{type(error).__name__}: {error}")
    except Exception:  # of its own __str__
        return type(error).__name__


def _cut(text: str) -> str:
    """The first line, as far as anyone reads: what JAX says runs to pages."""
    line = (text.strip().splitlines() or ["it did not say why"])[0][:_MOST_SAID]
    return line.encode("utf-8", "backslashreplace").decode()  # half of a surrogate pair cannot be kept
