"""The same hypergradient by other means, compiled ahead of time: reverse-mode autodiff, with and without checkpoints.

They are the engines of `core.engines` in ordinary floats, with nothing around them: one program, one call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from benchmarks.yardstick import KEY, Case
from core.engines import checkpointed, unrolled
from core.engines.float_engine import FloatEngine

SCAN, SQRT, RECURSIVE = "jax.grad through scan", "√T nested jax.checkpoint", "equinox recursive checkpointing"
ENGINES: dict[str, FloatEngine] = {
    SCAN: unrolled(),
    SQRT: checkpointed("sqrt"),
    RECURSIVE: checkpointed("recursive"),
}


def compile_rival(name: str, case: Case) -> Any:
    """A compiled program of (problem, hyper) that returns the outer loss and the hypergradient."""

    def program(problem: Any, hyper: Any) -> Any:
        outcome = ENGINES[name].differentiate(problem, hyper, KEY, case.optimizer, case.steps)
        return outcome.value, outcome.gradient

    return jax.jit(program).lower(case.problem, case.hyper).compile()


def call(program: Any, case: Case) -> Callable[[], Any]:
    """The program on the case's arguments."""
    return lambda: program(case.problem, case.hyper)


def working_bytes(program: Any) -> int:
    """Temporary memory of a compiled program, by XLA's own analysis."""
    return int(program.memory_analysis().temp_size_in_bytes)
