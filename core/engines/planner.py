"""Which engine to take: seconds and bytes of each, foretold from a short measured probe, and the fastest that fits.

Memory is read off the programs that XLA compiles for the full length of training, none of which is run. Time is that
of two shorter trainings of the same problem, carried on along the straight line through them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import psutil
from jax.tree_util import Partial

from core.engines.arguments import Arguments, an_engine, an_int, checked
from core.engines.checkpointed import checkpointed
from core.engines.engine import Engine, Memory
from core.engines.forward_mode import forward_mode
from core.engines.implicit import implicit
from core.engines.problem import Hyper, Problem
from core.engines.result import Hypergradient
from core.engines.reversible import hybrid, reversible
from core.engines.truncated import truncated
from core.engines.unrolled import unrolled
from core.errors import CoreError, InvalidProblem
from core.reversal.optimizers import Optimizer

_FIRST_STEPS = 8  # of a probe
_PROBE_SECONDS = 0.4  # that a probe should take, so that clocks and fixed costs matter little
_NEAR = 4  # times as long as a probe need be
_REPEATS = 3
_FORWARD_MODE_UP_TO = 64  # hyperparameters; with more it is never the fastest
_SHARE = 0.8  # of the memory that is free now, if no budget is given


class Prediction(NamedTuple):
    """What one hypergradient of one training run is going to take, its programs compiled before."""

    engine: Engine
    seconds: float  # not a number where the probe failed
    memory: Memory
    fits: bool  # into the budgets
    remark: str = ""  # why there is no prediction

    @property
    def name(self) -> str:
        """Of the engine."""
        return self.engine.name


class EnginePlan(NamedTuple):
    """Every engine's prediction: those that fit first, fastest first."""

    predictions: tuple[Prediction, ...]
    device_budget: int
    host_budget: int

    @property
    def chosen(self) -> Engine:
        """The fastest that fits and gives the whole gradient.

        Raises:
            InvalidProblem: none fits.
        """
        for prediction in self.predictions:
            if prediction.fits and prediction.engine.complete:
                return prediction.engine
        known = [one for one in self.predictions if one.engine.complete and not one.remark]
        if not known:
            remarks = "; ".join(f"{one.name}: {one.remark}" for one in self.predictions if one.engine.complete)
            raise InvalidProblem(f"no engine got through a probe of a few steps: {remarks}")
        least = min(known, key=lambda one: one.memory.device_bytes)
        raise InvalidProblem(
            f"no engine fits into {self.device_budget} bytes of device and {self.host_budget} of host memory; the "
            f"least is {least.name} with {least.memory.device_bytes} and {least.memory.host_bytes}: take a smaller "
            "model or batch, or a larger budget"
        )


def plan(
    problem: Problem,
    hyper: Hyper,
    *,
    optimizer: Optimizer,
    num_steps: int,
    key: jax.Array,
    engines: list[Engine] | None = None,
    device_budget: int | None = None,
    host_budget: int | None = None,
    seconds: float = math.inf,
) -> EnginePlan:
    """Predict every engine's time and memory.

    Args:
        problem: as for `hypergradient`.
        hyper: as for `hypergradient`.
        optimizer: as for `hypergradient`.
        num_steps: T.
        key: of one run.
        engines: to be compared; all that there are unless given.
        device_budget: bytes that an engine may take beyond what is there already; what is free unless given.
        host_budget: the same of host memory.
        seconds: of the clock. The first engine is probed in any case, and each other one if there will be time for it,
            should it take as long as the longest so far.

    Raises:
        InvalidProblem: the problem cannot be trained as given, or an argument is none of these; the message names it.
    """
    run = checked(problem, hyper, optimizer, num_steps, key).one_run()
    device_budget, host_budget = _bytes("device_budget", device_budget), _bytes("host_budget", host_budget)
    device_budget = _free_on_device() if device_budget is None else device_budget
    host_budget = int(_SHARE * psutil.virtual_memory().available) if host_budget is None else host_budget
    if engines is None:
        engines = all_engines(run.hyper, run.num_steps)
    engines = [an_engine("one of engines", engine) for engine in engines]
    probes = list(_probes(engines, run, seconds))
    for _ in range(_REPEATS):  # of all in turn: a machine that is disturbed for seconds spoils one time of each
        for probe in probes:
            if isinstance(probe, _Probe):
                probe.clock()
    predictions = []
    for engine, probe in zip(engines, probes, strict=True):
        memory, seconds, remark = Memory(0, 0, 0), float("nan"), ""
        if isinstance(probe, _Probe):
            memory, seconds = probe.memory, probe.seconds()
        else:
            remark = str(probe)
        fits = not remark and memory.device_bytes <= device_budget and memory.host_bytes <= host_budget
        if jax.default_backend() == "cpu":  # the same memory
            fits = fits and memory.at_once_bytes <= max(device_budget, host_budget)
        predictions.append(Prediction(engine, seconds, memory, fits, remark))
    predictions.sort(key=lambda one: (not one.fits, bool(one.remark), one.seconds))
    return EnginePlan(tuple(predictions), device_budget, host_budget)


def all_engines(hyper: Hyper, num_steps: int) -> list[Engine]:
    """Those that are worth comparing for so many hyperparameters and steps."""
    engines: list[Engine] = [reversible(), hybrid(checkpoints=min(8, num_steps)), unrolled(), checkpointed()]
    engines += [checkpointed("recursive"), truncated(max(1, num_steps // 10)), implicit()]
    if sum(leaf.size for leaf in jax.tree.leaves(hyper)) <= _FORWARD_MODE_UP_TO:
        engines.append(forward_mode())
    return engines


@dataclass(frozen=True)
class Automatic:
    """See `automatic`."""

    device_budget: int | None
    host_budget: int | None
    name = "automatic"
    exact_for = "what the engine that it chooses is exact for"
    complete = True

    def many(
        self, problem: Problem, hyper: Hyper, optimizer: Optimizer, num_steps: int, keys: jax.Array
    ) -> list[Hypergradient]:
        """See `Engine`."""
        chosen = _chosen(self, problem, hyper, optimizer, num_steps, keys if keys.ndim == 0 else keys[0])
        return chosen.many(problem, hyper, optimizer, num_steps, keys)

    def memory(
        self, problem: Problem, hyper: Hyper, optimizer: Optimizer, num_steps: int, key: jax.Array
    ) -> Memory:
        """See `Engine`."""
        chosen = _chosen(self, problem, hyper, optimizer, num_steps, key)
        return chosen.memory(problem, hyper, optimizer, num_steps, key)

    def shortened(self, num_steps: int, short: int) -> Engine:
        """See `Engine`."""
        return self


def automatic(*, device_budget: int | None = None, host_budget: int | None = None) -> Automatic:
    """Engine that plans (see `plan`) when it first meets a problem, and takes what is fastest within the budgets.

    Raises:
        InvalidProblem: a budget is no number of bytes.
    """
    return Automatic(_bytes("device_budget", device_budget), _bytes("host_budget", host_budget))


def _bytes(name: str, budget: int | None) -> int | None:
    return None if budget is None else an_int(f"{name} (bytes)", budget, least=0)


_choices: dict[Any, Engine] = {}
_MAX_CHOICES = 32


def _chosen(
    engine: Automatic, problem: Problem, hyper: Hyper, optimizer: Optimizer, num_steps: int, key: jax.Array
) -> Engine:
    leaves, treedef = jax.tree.flatten((problem, hyper))
    case = (engine, treedef, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves), optimizer, num_steps)
    if case not in _choices:
        if len(_choices) >= _MAX_CHOICES:
            del _choices[next(iter(_choices))]
        _choices[case] = plan(
            problem,
            hyper,
            optimizer=optimizer,
            num_steps=num_steps,
            key=key,
            device_budget=engine.device_budget,
            host_budget=engine.host_budget,
        ).chosen
    return _choices[case]


def _probes(engines: list[Engine], run: Arguments, seconds: float) -> Iterator[_Probe | CoreError]:
    """Of the first engine, and of the others as long as there is time."""
    began, longest = time.perf_counter(), 0.0
    for number, engine in enumerate(engines):
        before = time.perf_counter()
        if number and before - began + longest > seconds:
            yield InvalidProblem("there was no time to probe it")
            continue
        yield _probed(engine, run)
        longest = max(longest, time.perf_counter() - before)


def _probed(engine: Engine, run: Arguments) -> _Probe | CoreError:
    """A probe, its programs compiled, or why there is none."""
    try:
        return _Probe(engine, run, engine.memory(*run))
    except CoreError as error:
        return error


class _Probe:
    """Two shorter trainings of a problem, for the clock."""

    def __init__(self, engine: Engine, run: Arguments, memory: Memory) -> None:
        self._engine, self._run, self.memory = engine, run, memory
        self._groups = len(jax.tree.leaves(jax.eval_shape(run.problem.init, run.hyper, run.keys)))
        few = min(_FIRST_STEPS, run.num_steps)
        self._take(few)  # compiles
        briefly = self._take(few)
        # a power of two: of programs that are kept, another plan of the job finds those of this length
        times = 2 ** max(2, math.floor(math.log2(_PROBE_SECONDS / briefly)))
        more = few * times
        if run.num_steps <= _NEAR * more:  # its programs are there already, compiled to know their memory
            more = run.num_steps
        self._seconds = {few: briefly, more: self._take(more)}

    def clock(self) -> None:
        """Take both once; the shortest time counts, as noise only adds."""
        for steps, least in self._seconds.items():
            self._seconds[steps] = min(least, self._take(steps))

    def seconds(self) -> float:
        """Predicted of the whole length."""
        few, more = min(self._seconds), max(self._seconds)
        briefly, longer = self._seconds[few], self._seconds[more]
        if more == self._run.num_steps:
            return longer
        # what is left is spent once, whatever the length; where the clock's noise hides the difference, nothing is
        a_step = (longer - briefly) / (more - few) if longer > briefly else longer / more
        return longer + (self._run.num_steps - more) * a_step

    def _take(self, steps: int) -> float:
        """Seconds of a run of so many steps."""
        problem, hyper, optimizer, num_steps, key = self._run
        engine, shorter = self._engine, problem
        if steps < num_steps:
            engine = engine.shortened(num_steps, steps)
            cut = Partial(_Cut(num_steps, self._groups, steps), problem.schedule)
            shorter = Problem(problem.init, problem.inner_loss, problem.outer_loss, cut)
        began = time.perf_counter()
        results = engine.many(shorter, hyper, optimizer, steps, key)
        jax.block_until_ready([result[:3] for result in results])
        return time.perf_counter() - began


@dataclass(frozen=True)
class _Cut:
    """A schedule's first steps."""

    num_steps: int
    groups: int
    short: int

    def __call__(self, schedule: Callable[[Hyper], dict[str, Any]], hyper: Hyper) -> dict[str, Any]:
        over_time = {(self.num_steps,), (self.num_steps, self.groups)}
        given = schedule(hyper)
        if not isinstance(given, dict):
            return given
        return {
            name: value[: self.short] if getattr(value, "shape", None) in over_time else value
            for name, value in given.items()
        }


def _free_on_device() -> int:
    stats = jax.local_devices()[0].memory_stats()  # None on CPU, where the device's memory is the host's
    if stats and "bytes_limit" in stats:
        return int(_SHARE * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)))
    return int(_SHARE * psutil.virtual_memory().available)
