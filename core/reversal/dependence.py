"""What a traced program's results depend on."""

from __future__ import annotations

from typing import Any


def depending_outputs(jaxpr: Any) -> list[bool]:
    """For each output, whether it depends on an input. A call inside counts as one operation on all its arguments."""
    reached = set(jaxpr.invars)
    for equation in jaxpr.eqns:
        if any(not is_literal(var) and var in reached for var in equation.invars):
            reached |= set(equation.outvars)
    return [not is_literal(var) and var in reached for var in jaxpr.outvars]


def is_literal(var: Any) -> bool:
    """Whether an operand is a constant written into the program."""
    return hasattr(var, "val")
