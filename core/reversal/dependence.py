"""What a traced program's results depend on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def read_inputs(jaxpr: Any) -> list[bool]:
    """For each input, whether anything reads it. A call inside reads all its arguments."""
    read = {var for equation in jaxpr.eqns for var in equation.invars if not is_literal(var)}
    read |= {var for var in jaxpr.outvars if not is_literal(var)}
    return [var in read for var in jaxpr.invars]


def depending_outputs(jaxpr: Any, inputs: Collection[int] | None = None) -> list[bool]:
    """For each output, whether it depends on one of these inputs; on any unless given.

    A call inside counts as one operation on all its arguments.
    """
    reached = {var for index, var in enumerate(jaxpr.invars) if inputs is None or index in inputs}
    for equation in jaxpr.eqns:
        if any(not is_literal(var) and var in reached for var in equation.invars):
            reached |= set(equation.outvars)
    return [not is_literal(var) and var in reached for var in jaxpr.outvars]


def is_literal(var: Any) -> bool:
    """Whether an operand is a constant written into the program."""
    return hasattr(var, "val")
