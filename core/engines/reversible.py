"""The reversible engine: training is run backward exactly, so its memory does not grow with the number of steps.

Exact for every reversible optimizer: no truncation, no approximation, only the rounding of the arithmetic.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import jax

from core.callables import check_callable
from core.engines.arguments import an_engine, an_int
from core.engines.engine import Engine, Memory
from core.engines.problem import Hyper, Problem
from core.engines.result import Hypergradient
from core.engines.reverse_memory import memory_of, working_bytes
from core.engines.there_and_back import Reverse
from core.errors import InvalidProblem, UncertifiedGradient
from core.reversal.optimizers import Optimizer
from core.reversal.seeds import batch_sizes
from core.reversal.stores import DiskStore, HostStore, Store


@dataclass(frozen=True)
class Reversible:
    """See `reversible` and `hybrid`."""

    checkpoints: int
    interrupt: Callable[[], None]
    fallback: Engine | None
    spill_to: Path | None
    side_by_side: int
    keep_in: Path | None = None

    @property
    def name(self) -> str:
        """As certificates call it."""
        return "reversible" if self.checkpoints == 1 else "hybrid"

    exact_for = (
        "every hyperparameter, whatever the length of training; only the rounding of the arithmetic is left"
    )

    complete = True

    def many(
        self, problem: Problem, hyper: Hyper, optimizer: Optimizer, num_steps: int, keys: jax.Array
    ) -> list[Hypergradient]:
        """See `Engine`."""
        if keys.ndim == 0:
            return self._together(problem, hyper, optimizer, num_steps, keys)
        sizes = batch_sizes(len(keys), self.side_by_side, len(jax.local_devices()))
        batches = [keys[stop - size : stop] for size, stop in zip(sizes, accumulate(sizes), strict=True)]
        return [
            result
            for batch in batches
            for result in self._together(
                problem, hyper, optimizer, num_steps, batch[0] if len(batch) == 1 else batch
            )
        ]

    def memory(
        self, problem: Problem, hyper: Hyper, optimizer: Optimizer, num_steps: int, key: jax.Array
    ) -> Memory:
        """See `Engine`."""
        return memory_of(Reverse(problem, hyper, optimizer, num_steps, key, self))

    def shortened(self, num_steps: int, short: int) -> Engine:
        """See `Engine`."""
        return self

    def _together(
        self, problem: Problem, hyper: Hyper, optimizer: Optimizer, num_steps: int, keys: jax.Array
    ) -> list[Hypergradient]:
        """Hypergradients of runs that all go at once."""
        run = Reverse(problem, hyper, optimizer, num_steps, keys, self)
        try:
            results = self._certified(run)
        except UncertifiedGradient:
            if self.fallback is None:
                raise
            return self.fallback.many(problem, hyper, optimizer, num_steps, keys)
        run.habits.mode = results[0].certificate.mode
        return results

    def _certified(self, run: Reverse) -> list[Hypergradient]:
        """What is exact in one way of computing the gradient or the other; with room for a number that left its range
        and came back between two checks, if that is why it is not.
        """
        mode = run.habits.mode or ("fused" if run.probe("fused") else "isolated")
        while True:
            for way in dict.fromkeys([mode, "isolated"]):
                results = run.attempt(way)
                if results[0].certificate.exact:
                    return results
            if not run.make_room():
                missed = results[0].certificate.mismatched_bits
                raise UncertifiedGradient(
                    f"running backward missed the start by {missed} bits: the inner loss does not return the same bits "
                    "for the same arguments; make it deterministic (no host state, no nondeterministic device "
                    f"operations) or choose another engine. Or unstep of {run.optimizer.name} does not undo its step"
                )

    def store(self) -> Store:
        """Where a trajectory's bits go."""
        return HostStore() if self.spill_to is None else DiskStore(self.spill_to)


def reversible(
    *,
    interrupt: Callable[[], None] = lambda: None,
    fallback: Engine | None = None,
    spill_to: str | Path | None = None,
    side_by_side: int = 1,
) -> Reversible:
    """Engine that runs training backward, bit for bit.

    Args:
        interrupt: called between the pieces of a run, at least about once a second; what it raises ends the run.
        fallback: engine to use when neither way of computing the gradient could be certified; without one
            UncertifiedGradient is raised.
        spill_to: folder for the bits that buffers spill; they stay in host memory unless given. The file has no name
            and is gone with the run.
        side_by_side: of several keys, how many runs each device takes at a time, by `jax.vmap`. With 1 every run has
            the bits that it has alone, whatever the number of devices. More are faster where one run leaves the
            device idle (small models, GPUs); their gradients differ from those of runs alone in rounding.

    Raises:
        InvalidProblem: an argument is none of these; the message names it.
    """
    return _engine(1, interrupt, fallback, spill_to, side_by_side)


def hybrid(
    *,
    checkpoints: int,
    interrupt: Callable[[], None] = lambda: None,
    fallback: Engine | None = None,
    spill_to: str | Path | None = None,
    side_by_side: int = 1,
    keep_in: str | Path | None = None,
) -> Reversible:
    """Engine that runs training backward between checkpoints, which bounds what buffers store at any time.

    Each stretch but the last is trained once more before it is undone: one gradient a step more than `reversible`.

    Args:
        checkpoints: number of stretches, each begun by a checkpoint with empty buffers; at least 1. Which number it is
            moves the trajectory by less than the state's resolution, as emptied buffers round otherwise.
        interrupt: as for `reversible`.
        fallback: as for `reversible`.
        spill_to: as for `reversible`; checkpoints go there too.
        side_by_side: as for `reversible`.
        keep_in: folder of this problem alone, where every stretch that is done is kept: the same run, begun again after
            its process has died, goes on from there and gives the same bits. What it kept is gone when it has ended.

    Raises:
        InvalidProblem: as for `reversible`.
    """
    engine = _engine(checkpoints, interrupt, fallback, spill_to, side_by_side)
    return replace(engine, keep_in=_folder("keep_in", keep_in))


def _engine(
    checkpoints: int,
    interrupt: Callable[[], None],
    fallback: Engine | None,
    spill_to: str | Path | None,
    side_by_side: int,
) -> Reversible:
    check_callable("interrupt", interrupt, (), InvalidProblem)
    return Reversible(
        an_int("checkpoints", checkpoints),
        interrupt,
        None if fallback is None else an_engine("fallback", fallback, like="unrolled()"),
        _folder("spill_to", spill_to),
        an_int("side_by_side", side_by_side),
    )


def _folder(name: str, given: str | Path | None) -> Path | None:
    """A folder that a file can be made in, which is tried."""
    if given is None:
        return None
    if not isinstance(given, str | os.PathLike):
        raise InvalidProblem(f"{name} is {given!r} of type {type(given).__name__}; give the path of a folder")
    folder = Path(given)
    if not folder.is_dir():
        raise InvalidProblem(f"{name} is {str(folder)!r}, which is no folder; make it first")
    try:
        DiskStore(folder).close()
    except OSError as error:
        raise InvalidProblem(
            f"{name} is {str(folder)!r}, where no file can be made ({error.strerror}); give a folder to write to"
        ) from error
    return folder


def working_memory(problem: Problem, hyper: Hyper, optimizer: Optimizer, num_steps: int, key: jax.Array) -> int:
    """Bytes of device memory that running backward needs beyond its arguments and the gradient it returns.

    By XLA's own analysis of the compiled program: temporary buffers, state, information buffers and adjoint.
    """
    return working_bytes(Reverse(problem, hyper, optimizer, num_steps, key, reversible()))
