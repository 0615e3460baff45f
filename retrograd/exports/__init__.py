"""What a job has learned, for training elsewhere: see `retrograd.exports.schedule`."""

from enum import StrEnum


class Framework(StrEnum):
    """To train with elsewhere."""

    optax = "optax"
    pytorch = "pytorch"
