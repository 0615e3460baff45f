"""What a program says of itself: names, shapes and types of all that its functions take and return. Loads no JAX."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, BinaryIO, Literal

import numpy as np
from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from core.errors import InvalidProgram
from core.programs.entries import MANIFEST, MAX_MANIFEST_BYTES, REMEDY, opened
from core.spec import MAX_STEPS, OPTIMIZERS
from core.spec.base import Bool, Int, Part
from core.spec.problems import MAX_LEAVES, LeafName

FORMAT = 1
KEY_SHAPE = (2,)
"""Of the data, uint32, of a random key."""

_MAX_PARAMS, _MAX_SETS, _MAX_METRICS, _MAX_RESIDUALS = 1024, 16, 64, 4096
_MAX_NUMBERS = 1 << 32
_RESERVED = {"file", "document", "allow_pickle"}  # `numpy.savez` and the result document have uses for these
_SCHEDULED = {name for names in OPTIMIZERS.values() for name in names}

Dtype = Literal[
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "bfloat16", "float16", "float32", "float64", "complex64", "complex128",
]  # fmt: skip
Extent = Annotated[Int, Field(ge=0, le=1 << 40)]
Version = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z.+-]{1,40}$")]
Platform = Literal["cpu", "cuda", "rocm", "tpu"]
Function = Literal["init", "inner_loss", "outer_loss", "metrics", "schedule"]
Real = Literal["float32", "float64"]


class Array(Part):
    """Shape and type of an array."""

    shape: tuple[Extent, ...] = Field(max_length=16)
    dtype: Dtype

    @model_validator(mode="after")
    def _is_bounded(self) -> Array:
        if self.size > _MAX_NUMBERS:
            raise ValueError(
                f"an array of shape {self.shape} holds more than {_MAX_NUMBERS} numbers; use smaller ones"
            )
        return self

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all its numbers."""
        return self.size * (2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize)


class Leaf(Array):
    """An array with a name."""

    name: LeafName


class RealLeaf(Leaf):
    """A parameter or hyperparameter: what has a gradient."""

    dtype: Real


class ScheduleEntry(Part):
    """What the schedule returns under one name."""

    name: LeafName
    arrays: tuple[Array, ...] = Field(min_length=1, max_length=_MAX_PARAMS)
    by_weight: Bool = Field(description="whether there is an array for each of the parameters; else there is one")
    reads: tuple[LeafName, ...] = Field(
        (), max_length=MAX_LEAVES, description="hyperparameters that it depends on"
    )


class Manifest(Part):
    """A program: an inner and an outer problem, whose functions and derivatives stand beside it in the archive.

    Attributes:
        params: leaves of the elementary parameters, in the order of their groups.
        hyper: leaves of the hyperparameters.
        data: arrays of each data set that the losses and metrics take.
        reads: the hyperparameters that each function takes; it depends on no others.
        losses: types of the two losses.
        residuals: what `inner_linearized` leaves for `inner_product`.
    """

    format: Literal[1]
    jax_version: Version
    calling_convention: Int = Field(ge=1, le=1000)
    platforms: tuple[Platform, ...] = Field(min_length=1, max_length=4)
    num_steps: Int = Field(ge=1, le=MAX_STEPS)
    params: tuple[RealLeaf, ...] = Field(min_length=1, max_length=_MAX_PARAMS)
    hyper: tuple[RealLeaf, ...] = Field(min_length=1, max_length=MAX_LEAVES)
    data: dict[LeafName, Annotated[tuple[Leaf, ...], Field(min_length=1, max_length=_MAX_SETS)]] = Field(
        {}, max_length=_MAX_SETS
    )
    schedule: tuple[ScheduleEntry, ...] = Field(min_length=1, max_length=16)
    metrics: tuple[LeafName, ...] = Field((), max_length=_MAX_METRICS)
    reads: dict[Function, Annotated[tuple[LeafName, ...], Field(max_length=MAX_LEAVES)]]
    losses: dict[Literal["inner_loss", "outer_loss"], Real]
    residuals: tuple[Array, ...] = Field((), max_length=_MAX_RESIDUALS)

    @field_validator("platforms")
    @classmethod
    def _includes_cpu(cls, platforms: tuple[Platform, ...]) -> tuple[Platform, ...]:
        if "cpu" not in platforms or len(set(platforms)) != len(platforms):
            raise ValueError("platforms must hold cpu, on which programs are checked, and each once")
        return platforms

    @model_validator(mode="after")
    def _names_fit(self) -> Manifest:
        hyper = [leaf.name for leaf in self.hyper]
        _no_repeats("params", (leaf.name for leaf in self.params))
        _no_repeats("hyper", hyper)
        _no_repeats("schedule", (entry.name for entry in self.schedule))
        _no_repeats("metrics", self.metrics)
        for name, leaves in self.data.items():
            _no_repeats(f"data.{name}", (leaf.name for leaf in leaves))
        if reserved := _RESERVED.intersection(hyper):
            raise ValueError(f"hyper: {min(reserved)!r} is a name that results need; rename it")
        functions = {"init", "inner_loss", "outer_loss", "schedule"} | ({"metrics"} if self.metrics else set())
        if set(self.reads) != functions or set(self.losses) != {"inner_loss", "outer_loss"}:
            raise ValueError(f"reads and losses must name {', '.join(sorted(functions))}, and both losses")
        for where, names in [*self.reads.items(), *((entry.name, entry.reads) for entry in self.schedule)]:
            if list(names) != [name for name in hyper if name in names]:
                raise ValueError(f"reads of {where} must name leaves of hyper, in their order and each once")
        of_schedule = {name for entry in self.schedule for name in entry.reads}
        if set(self.reads["schedule"]) != of_schedule:
            raise ValueError("reads.schedule must be all that its entries read")
        return self

    @model_validator(mode="after")
    def _schedule_fits(self) -> Manifest:
        steps, groups = self.num_steps, len(self.params)
        for entry in self.schedule:
            if entry.name not in _SCHEDULED:
                raise ValueError(
                    f"schedule: no optimizer reads {entry.name}; there are {', '.join(sorted(_SCHEDULED))}"
                )
            if entry.by_weight:
                fits = len(entry.arrays) == groups
            else:
                fits = len(entry.arrays) == 1 and entry.arrays[0].shape in {
                    (),
                    (steps,),
                    (steps, groups),
                    (1, groups),
                }
            if not fits or any(array.dtype not in ("float32", "float64") for array in entry.arrays):
                raise ValueError(
                    f"schedule: {entry.name} must be real, and a scalar, [{steps}], [{steps}, {groups}], or like the "
                    "parameters"
                )
        return self

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the hyperparameters, by name."""
        return {leaf.name: leaf.shape for leaf in self.hyper}

    def reading(self, function: Function) -> tuple[RealLeaf, ...]:
        """The hyperparameters that a function takes."""
        return tuple(leaf for leaf in self.hyper if leaf.name in self.reads[function])


def read_manifest(file: BinaryIO) -> Manifest:
    """The manifest of a program's archive, of which nothing else is read.

    Args:
        file: the archive; seekable.

    Raises:
        InvalidProgram: not an archive of a program, or a manifest that contradicts itself.
    """
    with opened(file) as entries:
        return parsed(entries.read(MANIFEST, MAX_MANIFEST_BYTES))


def parsed(content: bytes) -> Manifest:
    """A manifest from its JSON.

    Raises:
        InvalidProgram: it is none; names the field.
    """
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:100]
        said = first["msg"].removeprefix("Value error, ")
        raise InvalidProgram(f"{MANIFEST}{': ' + where if where else ''}: {said}; {REMEDY}") from None


def _no_repeats(where: str, names: Iterable[str]) -> None:
    names = list(names)
    if len(set(names)) != len(names):
        raise ValueError(f"{where} names something twice; name each once")
