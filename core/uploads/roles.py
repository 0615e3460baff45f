"""What the columns of a table are for, as whoever sends it says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import InvalidDataset

MAX_COLUMNS = 4096
MAX_NAME = 100
MAX_ROLES_BYTES = 1 << 16

ColumnName = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]


class Roles(BaseModel):
    """The part `columns` of a request that sends a table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: ColumnName = Field(description="the column that is to be told from the others")
    task: Literal["classification", "regression"] | None = Field(
        None,
        description="whether the target is a class or a number. Unless given, text and whole numbers are classes, and "
        "numbers with fractions are numbers",
    )
    features: tuple[ColumnName, ...] | None = Field(
        None, min_length=1, max_length=MAX_COLUMNS, description="columns to tell it from; all others unless given"
    )
    ignored: tuple[ColumnName, ...] = Field((), max_length=MAX_COLUMNS, description="columns to leave out")
    categorical: tuple[ColumnName, ...] = Field(
        (),
        max_length=MAX_COLUMNS,
        description="features that are one of a few words or codes: each becomes as many features, one for each value "
        "that occurs, 1 where it has that value and 0 elsewhere",
    )
    missing: Literal["mean"] | None = Field(
        None,
        description="mean: where a feature is missing it is its column's mean, or the shares of a categorical one. "
        "Unless given, a missing value is an error that names its row and column",
    )


class Assigned(NamedTuple):
    """Columns of one table by what they are for, as places from 0."""

    target: int
    features: tuple[int, ...]  # in the table's order
    categorical: frozenset[int]  # of these


def parse(text: str) -> Roles:
    """Roles from JSON.

    Raises:
        InvalidDataset: they are none; names the field.
    """
    try:
        return Roles.model_validate_json(text)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(["columns", *(_shown(str(part)) for part in found["loc"])])
        raise InvalidDataset(
            f'{where}: {found["msg"]}; send such as {{"target": "price", "categorical": ["town"]}}'
        ) from error


def check_names(names: Sequence[str]) -> None:
    """Raise InvalidDataset unless a table's names can be told apart, shown and kept."""
    if not 2 <= len(names) <= MAX_COLUMNS:
        hint = "; columns are separated by commas" if len(names) == 1 and ";" in names[0] else ""
        raise InvalidDataset(
            f"file: has {len(names)} columns; from 2 to {MAX_COLUMNS} are read, named in the first row{hint}"
        )
    seen: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise InvalidDataset(
                f"file: column {number} is named {_shown(name)!r}; name each in the first row, in 1 to {MAX_NAME} "
                "printable characters"
            )
        if name in seen:
            raise InvalidDataset(f"file: columns {seen[name]} and {number} are both named {name!r}; rename one")
        seen[name] = number


def assign(roles: Roles, names: Sequence[str]) -> Assigned:
    """What each column of a table with these names is for.

    Raises:
        InvalidDataset: a column that is not there, or that has two roles.
    """
    places = {name: place for place, name in enumerate(names)}
    for role, asked in (
        ("target", (roles.target,)),
        ("features", roles.features or ()),
        ("ignored", roles.ignored),
        ("categorical", roles.categorical),
    ):
        for name in asked:
            if name not in places:
                raise InvalidDataset(
                    f"columns.{role}: there is no column {_shown(name)!r}; there are {_some(names)}"
                )
        if len(set(asked)) < len(asked):
            raise InvalidDataset(f"columns.{role}: a column is named twice; name each once")
    chosen = set(names if roles.features is None else roles.features)
    if roles.target in roles.ignored or (roles.features is not None and roles.target in chosen):
        raise InvalidDataset(f"columns.target: {roles.target!r} is named as another role too; take it out there")
    if roles.features is not None and (both := chosen & set(roles.ignored)):
        raise InvalidDataset(
            f"columns.ignored: {min(both)!r} is among features too; take it out of one of the two"
        )
    chosen -= {roles.target, *roles.ignored}
    if strangers := set(roles.categorical) - chosen:
        raise InvalidDataset(f"columns.categorical: {min(strangers)!r} is no feature; take it out")
    if not chosen:
        raise InvalidDataset("columns: no features are left; name fewer as ignored")
    return Assigned(
        target=places[roles.target],
        features=tuple(sorted(places[name] for name in chosen)),
        categorical=frozenset(places[name] for name in roles.categorical),
    )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"


def _shown(name: str) -> str:
    return name[:40].encode("ascii", "backslashreplace").decode() if not name.isprintable() else name[:40]
