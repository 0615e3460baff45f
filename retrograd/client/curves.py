"""Losses and whatever else was measured over meta-iterations, as arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from retrograd.client.arrays import Arrays
from retrograd.client.call import Json
from retrograd.client.frames import pandas

if TYPE_CHECKING:
    import pandas as pd

_TYPES: dict[str, Any] = {"iteration": np.int64, "attempt": np.int64, "exact": bool}  # others are float64, or text


class Curves(Arrays):
    """Arrays by name, with a value for every meta-iteration, of the hyperparameters before its update.

    `iteration` and `attempt`, int64; losses, `hypergradient_norm`, `seconds` and the certificate's numbers, float64,
    NaN where there is none; `exact`, bool; `engine` and `mode`, text; a number of each diagnostic, as `seeds.cosine`.
    """

    @classmethod
    def of(cls, document: Json) -> Self:
        """Of the table as the API has it."""
        return cls({name: np.array(values, _type(name, values)) for name, values in document["columns"].items()})

    def to_pandas(self) -> pd.DataFrame:
        """A row for every meta-iteration, by its number."""
        return pandas().DataFrame(self._arrays).set_index("iteration")

    def __repr__(self) -> str:
        return f"<Curves over {len(self._arrays['iteration'])} meta-iterations: {', '.join(self)}>"


def _type(name: str, values: list[Any]) -> Any:
    is_text = any(isinstance(one, str) for one in values)
    return object if is_text else _TYPES.get(name, np.float64)
