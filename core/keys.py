"""Random keys: streams that never meet, numbered within."""

from __future__ import annotations

from enum import IntEnum

import jax


class Stream(IntEnum):
    """What a key is for. The numbers are part of what results depend on."""

    TRAINING = 0
    EVALUATION = 1
    DIAGNOSTICS = 2
    SEARCH = 3


def key_of(stream: Stream, number: int) -> jax.Array:
    """The key of this number in a stream."""
    return jax.random.fold_in(jax.random.key(int(stream)), number)


def evaluation_key(number: int) -> jax.Array:
    """Of the evaluation seed of this number."""
    return key_of(Stream.EVALUATION, number)
