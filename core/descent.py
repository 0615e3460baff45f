"""Descent on the hyperparameters as a specification wants it."""

from __future__ import annotations

import optax

from core.spec.meta import Meta


def descent(meta: Meta) -> optax.GradientTransformation:
    """Clipping, momentum and steps."""
    steps = optax.adam(meta.step_size) if meta.optimizer == "adam" else optax.sgd(meta.step_size)
    if meta.momentum:  # v ← γv + (1−γ)g, as the inner optimizer has it
        steps = optax.chain(optax.ema(meta.momentum, debias=False), steps)
    return steps if meta.clip is None else optax.chain(optax.clip_by_global_norm(meta.clip), steps)
