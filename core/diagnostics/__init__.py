"""Whether a hypergradient can be trusted and followed: chaos, smoothness, correctness, noise from seed to seed.

Each measurement is a pure function of its arguments, changes nothing, and holds for every optimizer. Trainings
that no gradient is asked of run in ordinary floats, as the oracle's do, independently of the reversible
arithmetic. There, what is not finite is reported (None in `as_dict`), not raised: divergence is a finding.
"""

from core.diagnostics.adjoints import AdjointGrowth, adjoint_growth
from core.diagnostics.differences import FiniteDifferenceCheck, finite_difference_check
from core.diagnostics.naive import NaiveReversal, naive_reversal
from core.diagnostics.paths import Path, path
from core.diagnostics.smoothness import Metasmoothness, metasmoothness
from core.diagnostics.variance import HypergradientVariance, hypergradient_variance

__all__ = [
    "AdjointGrowth",
    "FiniteDifferenceCheck",
    "HypergradientVariance",
    "Metasmoothness",
    "NaiveReversal",
    "Path",
    "adjoint_growth",
    "finite_difference_check",
    "hypergradient_variance",
    "metasmoothness",
    "naive_reversal",
    "path",
]
