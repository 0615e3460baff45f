"""A hypergradient with what it belongs to."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from core.engines.certificate import Certificate


class Hypergradient(NamedTuple):
    """Result of an engine."""

    value: jax.Array  # outer loss at the end of training
    gradient: Any  # d value / d hyper, a pytree like hyper
    params: Any  # elementary parameters at the end of training; a list of them, one a run, for several keys
    certificate: Certificate
