"""Losses over meta-iterations, as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from retrograd.client.call import Json
from retrograd.client.frames import pandas

if TYPE_CHECKING:
    import pandas as pd

NUMBERS = (
    "outer_loss",
    "train_loss",
    "valid_loss",
    "test_loss",
    "hypergradient_norm",
    "seconds",
)


class Curves(Mapping[str, np.ndarray]):
    """Arrays by name, with a number for every meta-iteration: `iteration`, int64; `NUMBERS`, float64, NaN where there
    is none; and `exact`, bool, by its certificate. Each is of the hyperparameters before that meta-iteration's update.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = dict(arrays)

    @classmethod
    def of(cls, rows: list[Json]) -> Self:
        """Of meta-iterations as the API has them."""
        arrays = {name: np.array([row[name] for row in rows], np.float64) for name in NUMBERS}
        exact = np.array([bool(row["certificate"].get("exact")) for row in rows], bool)
        return cls(
            {"iteration": np.array([row["iteration"] for row in rows], np.int64)} | arrays | {"exact": exact}
        )

    def to_pandas(self) -> pd.DataFrame:
        """A row for every meta-iteration, by its number."""
        return pandas().DataFrame(self._arrays).set_index("iteration")

    def __getitem__(self, name: str) -> Any:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return f"<Curves over {len(self._arrays['iteration'])} meta-iterations: {', '.join(self)}>"
