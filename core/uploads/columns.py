"""Columns of a table, one at a time: their values as numbers, checked, and what is worth knowing of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core.errors import InvalidDataset
from core.uploads.batches import Batch, Values
from core.uploads.canonical import LARGEST, MAX_CLASSES
from core.uploads.moments import Moments

MAX_CATEGORIES = 256
MAX_CATEGORY = 100  # characters

_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
_SHOWN = 40  # characters of a value


class Numeric:
    """A feature that is a number."""

    width = 1

    def __init__(self, name: str, fill: bool) -> None:
        self.name, self._fill, self._moments = name, fill, Moments()

    def numbers(self, batch: Batch, values: Values) -> np.ndarray:
        """The values, NaN where they are missing and this is allowed.

        Raises:
            InvalidDataset: one is no number, or missing; names its row.
        """
        numbers = as_numbers(values)
        if not isinstance(numbers, np.ndarray):
            raise InvalidDataset(
                f"{batch.where(numbers, self.name)}: {_shown(values[numbers])} is not a number; mend it, name the "
                "column as categorical, or as ignored"
            )
        check_range(numbers, batch, self.name)
        if not self._fill:
            check_present(np.isnan(numbers), batch, self.name, 'fill it in, or send "missing": "mean"')
        self._moments.add(numbers)
        return numbers

    def finish(self) -> None:
        """Raise InvalidDataset where no value is known."""
        if not self._moments.count:
            raise InvalidDataset(f"file: column {self.name!r} has no values; name it as ignored")

    def encoded(self, numbers: np.ndarray) -> np.ndarray:
        """Features [n, 1]."""
        return np.where(np.isnan(numbers), self._moments.mean, numbers)[:, None]

    def described(self) -> dict[str, Any]:
        """As JSON values."""
        return {"type": "number", **self._moments.described()}


class Categorical:
    """A feature that is one of a few values: a feature for each of them, in their order."""

    def __init__(self, name: str, fill: bool) -> None:
        self.name, self._fill = name, fill
        self._codes: dict[str, int] = {}  # in the order in which they were seen
        self._counts = np.zeros(MAX_CATEGORIES, np.int64)
        self._missing = 0

    def numbers(self, batch: Batch, values: Values) -> np.ndarray:
        """The number of each value, in the order in which they were seen; NaN where it is missing and this is allowed.

        Raises:
            InvalidDataset: too many different values, or a missing one; names its row.
        """
        texts, codes = as_texts(values), self._codes
        found = np.empty(len(texts))
        for row, text in enumerate(texts):
            code = codes.get(text)
            if code is None and text:
                code = codes[text] = self._new(text, batch, row)
            found[row] = math.nan if code is None else code
        absent = np.isnan(found)
        if not self._fill:
            check_present(absent, batch, self.name, 'fill it in, or send "missing": "mean"')
        self._missing += int(absent.sum())
        self._counts += np.bincount(found[~absent].astype(np.int64), minlength=MAX_CATEGORIES)
        return found

    def _new(self, text: str, batch: Batch, row: int) -> int:
        if len(text) > MAX_CATEGORY or not text.isprintable():
            raise InvalidDataset(
                f"{batch.where(row, self.name)}: {_shown(text)} is no name of a category; use 1 to {MAX_CATEGORY} "
                "printable characters"
            )
        if len(self._codes) == MAX_CATEGORIES:
            raise InvalidDataset(
                f"{batch.where(row, self.name)}: is the {MAX_CATEGORIES + 1}th different value of a categorical "
                f"column; {MAX_CATEGORIES} are taken. Join some, or name the column as ignored"
            )
        return len(self._codes)

    def finish(self) -> None:
        """Raise InvalidDataset where no value is known."""
        if not self._codes:
            raise InvalidDataset(f"file: column {self.name!r} has no values; name it as ignored")

    @property
    def width(self) -> int:
        """Features that it becomes."""
        return len(self._codes)

    def encoded(self, codes: np.ndarray) -> np.ndarray:
        """Features [n, width]; a missing value is the share of each."""
        order = np.array([self._codes[text] for text in sorted(self._codes)])
        shares = self._counts[order] / self._counts.sum()
        return np.where(np.isnan(codes)[:, None], shares, codes[:, None] == order)

    def described(self) -> dict[str, Any]:
        """As JSON values."""
        counts = [{"value": text, "rows": int(self._counts[self._codes[text]])} for text in sorted(self._codes)]
        return {"type": "category", "missing": self._missing, "categories": counts}


class Target:
    """What is to be told from the features: classes or numbers; which, is settled when all values were seen."""

    def __init__(self, name: str, task: str | None) -> None:
        self.name, self._task = name, task
        self._moments = Moments()
        self._whole, self._not_a_number = True, ""  # the first value that is none, with its place
        self._numbers: set[float] | None = set()  # different ones; None: too many to be classes
        self._codes: dict[str, int] | None = {}  # of different texts, in the order in which they were seen

    def numbers(self, batch: Batch, values: Values) -> np.ndarray:
        """[n, 2]: each as a number, NaN from the first on that is none, and the number of its text.

        Raises:
            InvalidDataset: one is missing, or cannot be shown; names its row.
        """
        found = np.full((len(batch), 2), math.nan)
        texts = as_texts(values)
        absent = np.array([text.lower() in _MISSING for text in texts])
        check_present(absent, batch, self.name, "the target must be known: fill it in or drop the row")
        if not self._not_a_number:
            numbers = as_numbers(values)
            if isinstance(numbers, np.ndarray):
                check_range(numbers, batch, self.name)
                self._moments.add(numbers)
                self._whole = self._whole and bool((numbers == np.floor(numbers)).all())
                self._numbers = _at_most(MAX_CLASSES, self._numbers, numbers)
                found[:, 0] = numbers
            else:
                self._not_a_number = f"{batch.where(numbers, self.name)}: {_shown(values[numbers])}"
        found[:, 1] = self._coded(batch, texts)
        return found

    def _coded(self, batch: Batch, texts: list[str]) -> np.ndarray:
        found = np.zeros(len(texts))
        for row, text in enumerate(texts):
            if self._codes is None:
                break
            code = self._codes.get(text)
            if code is None:
                if len(self._codes) == MAX_CLASSES:
                    self._codes = None
                    break
                if len(text) > MAX_CATEGORY or not text.isprintable():
                    raise InvalidDataset(
                        f"{batch.where(row, self.name)}: {_shown(text)} is no name of a class; use 1 to {MAX_CATEGORY} "
                        "printable characters"
                    )
                code = self._codes[text] = len(self._codes)
            found[row] = code
        return found

    @property
    def is_number(self) -> bool:
        """Whether it is to be fitted as a number."""
        return (
            self._task or ("classification" if self._not_a_number or self._whole else "regression")
        ) == "regression"

    def finish(self) -> tuple[str, ...] | None:
        """Names of its classes in order, where they are more than their numbers.

        Raises:
            InvalidDataset: it is not what the task needs.
        """
        if self.is_number and self._not_a_number:
            raise InvalidDataset(
                f"{self._not_a_number} is not a number, which a target of a regression must be; mend it"
            )
        if self.is_number:
            if self._moments.lowest == self._moments.highest:
                raise self._all_the_same(f"{self._moments.lowest:g}")
            return None
        different: list[Any] | None = sorted(self._codes) if self._codes is not None else None
        if not self._not_a_number:
            different = None if self._numbers is None else sorted(self._numbers)
        if different is None:
            raise InvalidDataset(
                f"file: column {self.name!r} has more than {MAX_CLASSES} different values, too many for classes; send "
                '"task": "regression" if they are numbers to fit'
            )
        if len(different) < 2:
            raise self._all_the_same(_number_text(different[0]) if not self._not_a_number else different[0])
        if self._numbered:
            return None
        return tuple(different) if self._not_a_number else tuple(map(_number_text, different))

    @property
    def _numbered(self) -> bool:
        """Whether its numbers are those of classes already."""
        fits = self._moments.lowest >= 0 and self._moments.highest < MAX_CLASSES
        return not self._not_a_number and self._whole and fits

    def _all_the_same(self, value: str) -> InvalidDataset:
        return InvalidDataset(
            f"file: column {self.name!r} is {_shown(value)} in every row; there is nothing to tell apart: send rows "
            "of at least two classes, or name another target"
        )

    def encoded(self, found: np.ndarray) -> np.ndarray:
        """Targets, float64; or numbers of classes, int64."""
        if self.is_number:
            return np.ascontiguousarray(found[:, 0])
        if self._numbered:
            return found[:, 0].astype(np.int64)
        if not self._not_a_number:
            return np.searchsorted(np.array(sorted(self._numbers or ())), found[:, 0]).astype(np.int64)
        rank = {text: number for number, text in enumerate(sorted(self._codes or ()))}
        ranks = np.array([rank[text] for text in self._codes or ()])
        return ranks[found[:, 1].astype(np.int64)].astype(np.int64)

    def described(self) -> dict[str, Any]:
        """As JSON values."""
        if self.is_number:
            return {"type": "number", **self._moments.described()}
        return {"type": "class", "missing": 0}


def as_numbers(values: Values) -> np.ndarray | int:
    """Float64, NaN for what is missing; or the place of the first value that is no number."""
    if isinstance(values, np.ndarray):
        return values
    joined = "".join(values)
    if joined.isascii() and "_" not in joined:  # float() takes both
        try:
            return np.fromiter(map(float, values), np.float64, len(values))
        except ValueError:
            pass
    found = np.empty(len(values))
    for place, value in enumerate(values):
        text = value.strip()
        if text.lower() in _MISSING:
            found[place] = math.nan
            continue
        if not text.isascii() or "_" in text:
            return place
        try:
            found[place] = float(text)
        except ValueError:
            return place
    return found


def as_texts(values: Values) -> list[str]:
    """Without the blanks around them; empty where they are missing."""
    if isinstance(values, np.ndarray):
        return ["" if math.isnan(value) else _number_text(value) for value in values.tolist()]
    return [value.strip() for value in values]


def check_range(numbers: np.ndarray, batch: Batch, name: str) -> None:
    """Raise InvalidDataset where one is beyond what gradients in float32 can hold."""
    beyond = np.abs(numbers) > LARGEST
    if beyond.any():
        row = int(np.flatnonzero(beyond)[0])
        raise InvalidDataset(
            f"{batch.where(row, name)}: {numbers[row]:g} is an infinity or beyond float32; drop or mend it"
        )


def check_present(absent: np.ndarray, batch: Batch, name: str, remedy: str) -> None:
    """Raise InvalidDataset where a value is missing."""
    if absent.any():
        raise InvalidDataset(f"{batch.where(int(np.flatnonzero(absent)[0]), name)}: is missing; {remedy}")


def _at_most(most: int, seen: set[float] | None, more: np.ndarray) -> set[float] | None:
    if seen is None:
        return None
    seen |= set(np.unique(more).tolist())
    return seen if len(seen) <= most else None


def _number_text(value: float) -> str:
    return str(int(value)) if value == math.floor(value) and abs(value) < 2**53 else repr(value)


def _shown(value: Any) -> str:
    return ascii(str(value)[:_SHOWN])
