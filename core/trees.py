"""Pytrees that users give, flattened."""

from __future__ import annotations

from typing import Any

import jax

from core.errors import InvalidProblem


def flattened(name: str, tree: Any) -> tuple[list[tuple[Any, Any]], Any]:
    """Its (path, leaf) pairs and its structure.

    Raises:
        InvalidProblem: JAX cannot flatten it, as a dict whose keys it cannot sort.
    """
    try:
        return jax.tree_util.tree_flatten_with_path(tree)
    except ValueError as error:
        raise InvalidProblem(
            f"{name} is no pytree that can be flattened: {error} Give the keys of each dict one type, like str"
        ) from error
