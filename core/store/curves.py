"""Meta-iterations as columns: a row each, and what was measured of it as one number or word a column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from sqlalchemy import BigInteger, Boolean, Double, select
from sqlalchemy.orm import Session

from core.spec import JobSpec
from core.store.models import Job, MetaIteration

Kind = Literal["integer", "number", "boolean", "string"]

_DTYPES: dict[Kind, Any] = {"integer": np.int64, "number": np.float64, "boolean": np.bool_, "string": object}
_ABSENT: dict[Kind, Any] = {"integer": 0, "number": np.nan, "boolean": False, "string": ""}
_ROWS_AT_ONCE = 1000  # a row of Python objects takes ten times what it takes in columns

_LOSSES = ("outer_loss", "train_loss", "valid_loss", "test_loss", "hypergradient_norm", "seconds")
_PROOF: dict[str, Kind] = {
    "exact": "boolean",
    "engine": "string",
    "mode": "string",
    "mismatched_bits": "integer",
    "stored_bits_per_param_step": "number",
    "bound_bits_per_param_step": "number",
}
MEASURES: dict[str, dict[str, Kind]] = {
    "scan": {"value": "number", "derivative": "number"},
    "safeguard": {"outer_loss": "number", "stepped_back": "boolean", "scale": "number"},
    "adjoint_growth": {"growth_per_step": "number"},
    "metasmoothness": {"sign_agreement": "number", "second_difference": "number"},
    "finite_differences": {"worst": "number"},
    "seeds": {"norm": "number", "signal_to_noise": "number", "cosine": "number"},
    "naive_reversal": {"start_missed_by": "number"},
}
"""Of each diagnostic what is one number; the others are lists."""


class Column(NamedTuple):
    """One column, in the order of meta-iterations.

    Attributes:
        values: int64, float64, bool or text; where nothing is known, anything. A number that is known may be NaN.
        known: whether there is a value, a truth value a row.
    """

    name: str
    kind: Kind
    values: np.ndarray
    known: np.ndarray


class _Source(NamedTuple):
    name: str
    kind: Kind
    expression: Any


def read(session: Session, job: Job) -> list[Column]:
    """All of a job's meta-iterations so far; of diagnostics those columns that its specification asks for.

    Ten thousand of them, the most that a job has, are about two megabytes.
    """
    sources = [*_always(), *_asked_for(JobSpec.model_validate(job.spec))]
    query = (
        select(*(source.expression for source in sources))
        .where(MetaIteration.job_id == job.id)
        .order_by(MetaIteration.iteration)
        .execution_options(yield_per=_ROWS_AT_ONCE)
    )
    parts = [_columns(sources, rows) for rows in session.execute(query).partitions()]
    parts = parts or [_columns(sources, [])]
    return [
        Column(
            source.name,
            source.kind,
            np.concatenate([part[place].values for part in parts]),
            np.concatenate([part[place].known for part in parts]),
        )
        for place, source in enumerate(sources)
    ]


def _columns(sources: Sequence[_Source], rows: Sequence[Any]) -> list[Column]:
    found = zip(*rows, strict=True) if rows else ([] for _ in sources)
    return [_column(source, list(values)) for source, values in zip(sources, found, strict=True)]


def _column(source: _Source, found: list[Any]) -> Column:
    known = np.array([one is not None for one in found], bool)
    absent = _ABSENT[source.kind]
    values = np.array([absent if one is None else one for one in found], _DTYPES[source.kind])
    return Column(source.name, source.kind, values, known)


def _always() -> Iterator[_Source]:
    yield _Source("iteration", "integer", MetaIteration.iteration)
    for name in _LOSSES:
        yield _Source(name, "number", getattr(MetaIteration, name))
    for name, kind in _PROOF.items():
        yield _Source(name, kind, _within(MetaIteration.certificate, (name,), kind))
    yield _Source("attempt", "integer", MetaIteration.attempt)


def _asked_for(spec: JobSpec) -> Iterator[_Source]:
    for measure, fields in MEASURES.items():
        if _is_measured(spec, measure):
            for field, kind in fields.items():
                path = (measure, field)
                yield _Source(".".join(path), kind, _within(MetaIteration.diagnostics, path, kind))


def _is_measured(spec: JobSpec, measure: str) -> bool:
    match measure:
        case "scan":
            return spec.scan is not None
        case "safeguard":
            return spec.meta.safeguard is not None
        case _:
            return bool(spec.diagnostics.every and getattr(spec.diagnostics, measure))


def _within(document: Any, path: tuple[str, ...], kind: Kind) -> Any:
    """A value of a JSON document: Postgres takes it out, as documents may be large."""
    text = document[path].astext
    match kind:
        case "integer":
            return text.cast(BigInteger)
        case "number":
            return text.cast(Double)
        case "boolean":
            return text.cast(Boolean)
        case "string":
            return text
