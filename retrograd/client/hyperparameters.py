"""What a job has learned, as arrays with what is needed to read them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from retrograd.client.arrays import Arrays
from retrograd.client.call import Json
from retrograd.client.frames import pandas

if TYPE_CHECKING:
    import pandas as pd

_MEASURED = "measured/"


class Hyperparameters(Arrays):
    """Arrays by name, in the units that training uses. `measured` has those that the job measured beside them."""

    def __init__(self, head: Json, arrays: Mapping[str, np.ndarray]) -> None:
        """As they come: all of the result document but values, and these by name."""
        self._head = head
        super().__init__({name: arrays[name] for name in head["hyperparameters"]})
        self.measured: dict[str, np.ndarray] = {name: arrays[_MEASURED + name] for name in head["measured"]}

    @classmethod
    def read(cls, npz: bytes) -> Self:
        """From the file that the API sends."""
        with np.load(io.BytesIO(npz), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return cls(json.loads(str(arrays.pop("document"))), arrays)

    @property
    def iteration(self) -> int:
        """Updates that led to them; 0 is the start."""
        return int(self._head["iteration"])

    @property
    def units(self) -> dict[str, str]:
        """By name; empty of a problem of one's own."""
        return self._each("unit")

    @property
    def transforms(self) -> dict[str, str]:
        """By name: of what function of a number without bounds the values are: log, logit, identity."""
        return self._each("transform")

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """By name: what each axis runs through, such as `("step", "group")`."""
        return {name: tuple(axes) for name, axes in self._each("axes").items()}

    @property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the groups of elementary parameters by name, in the order in which axes run through them."""
        return {group["name"]: tuple(group["shape"]) for group in self._head["groups"]}

    @property
    def losses(self) -> dict[str, Any]:
        """The job's: `initial`, `searched`, `best` and `last`, each by `outer`, `train`, `valid` and `test`."""
        return dict(self._head["losses"])

    @property
    def certificate(self) -> Json | None:
        """What was proven about the job's hypergradients."""
        found: Json | None = self._head["certificate"]
        return found

    @cached_property
    def document(self) -> Json:
        """The whole result document, as `download` saves it: values as lists, null where they are not finite."""
        parts = {
            part: {name: self._head[part][name] | {"values": _listed(array)} for name, array in arrays.items()}
            for part, arrays in (("hyperparameters", self._arrays), ("measured", self.measured))
        }
        return self._head | parts

    def to_pandas(self, name: str) -> pd.DataFrame:
        """A row for every value of one of them: a column for each axis, and `value`.

        Groups go by their names, all else by numbers from 0. Where there is a value for each elementary parameter,
        `weight` numbers them within their group, row by row.
        """
        array = self[name]
        columns: dict[str, Any] = {}
        for axis, number in zip(self.axes[name], np.indices(array.shape), strict=True):
            columns[axis if axis not in columns else f"{axis}_{len(columns)}"] = number.ravel()
        if "group" in columns:
            columns["group"] = np.array(list(self.groups), object)[columns["group"]]
        if "weight" in columns:
            columns = self._by_group() | columns | {"weight": self._within_groups()}
        return pandas().DataFrame(columns | {"value": array.ravel()})

    def _by_group(self) -> dict[str, Any]:
        return {"group": np.repeat(np.array(list(self.groups), object), self._sizes())}

    def _within_groups(self) -> np.ndarray:
        return np.concatenate([np.arange(size) for size in self._sizes()])

    def _sizes(self) -> list[int]:
        return [int(np.prod(shape)) for shape in self.groups.values()]

    def _each(self, field: str) -> dict[str, Any]:
        return {name: described[field] for name, described in self._head["hyperparameters"].items()}

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {' × '.join(map(str, array.shape)) or 'one'}" for name, array in self.items())
        return f"<Hyperparameters of iteration {self.iteration}: {shapes}>"

    def _repr_html_(self) -> str:
        from retrograd.client import html

        return html.hyperparameters(self)


def _listed(array: np.ndarray) -> Any:
    shown = array.astype(object)
    shown[~np.isfinite(array)] = None
    return shown.tolist()
