"""Which numbers of a meta-iteration are columns."""

import pytest

from core.diagnostics.adjoints import AdjointGrowth
from core.diagnostics.differences import FiniteDifferenceCheck
from core.diagnostics.naive import NaiveReversal
from core.diagnostics.smoothness import Metasmoothness
from core.diagnostics.variance import HypergradientVariance
from core.meta_optimization import Scanned
from core.spec import JobSpec
from core.spec.meta import Diagnostics
from core.store import curves
from core.store.curves import MEASURES
from tests.builders import document

FOUND = {
    "scan": Scanned,
    "adjoint_growth": AdjointGrowth,
    "metasmoothness": Metasmoothness,
    "finite_differences": FiniteDifferenceCheck,
    "seeds": HypergradientVariance,
    "naive_reversal": NaiveReversal,
}


@pytest.mark.parametrize("measure", FOUND)
def test_they_are_fields_of_what_is_measured(measure):
    assert set(MEASURES[measure]) <= set(FOUND[measure]._fields)


def test_no_diagnostic_is_forgotten():
    """But paths, which are lists alone."""
    asked = set(Diagnostics.model_fields) - {"every", "path"}
    assert set(MEASURES) == asked | {"scan", "safeguard"}


@pytest.mark.parametrize("measure", sorted(set(Diagnostics.model_fields) - {"every", "path"}))
def test_there_are_those_that_the_specification_asks_for(measure):
    wanted = {"every": 1, measure: True if measure not in ("finite_differences", "seeds") else 2}
    spec = JobSpec.model_validate(document({"diagnostics": wanted}))
    names = [source.name for source in curves._asked_for(spec)]
    assert names == [f"{measure}.{field}" for field in MEASURES[measure]]
    assert not list(curves._asked_for(JobSpec.model_validate(document())))
