"""Giving back, between jobs, what a process has no more use for.

Compiled programs stay while there is room, since many jobs have the shapes of one before them.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import sys

from worker import memory

log = logging.getLogger(__name__)


def tidy(most: int) -> None:
    """Have this process hold no more than `most` bytes, if that can be had."""
    if (before := memory.held()) > most:
        forget_programs()
        trim_heap()
        log.info("programs dropped: %d MiB held, %d before", memory.held() >> 20, before >> 20)


def forget_programs() -> None:
    """Drop compiled programs and what they were traced from."""
    if jax := sys.modules.get("jax"):
        jax.clear_caches()


def trim_heap() -> None:
    """Give freed memory back to the system, where the C library can."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
