"""How a job's progress is shown while it is waited for."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from retrograd.client.printable import one_line
from retrograd.client.seen import SeenJob

Progress: TypeAlias = bool | Callable[[Any], object] | None
"""True: a bar. False: nothing. None: a bar where somebody looks on. Or what is called with the job at every poll."""


@contextmanager
def shown(job: SeenJob, progress: Progress) -> Iterator[Callable[[Any], object]]:
    """What is to be called with the job at every poll.

    Raises:
        TypeError: it would have to be awaited.
    """
    if inspect.iscoroutinefunction(progress):
        raise TypeError("progress is called and not awaited; give a plain function instead of an `async def`")
    if callable(progress):
        yield progress
    elif progress or (progress is None and _somebody_looks_on()):
        with _Bar(job) as bar:
            yield bar.show
    else:
        yield lambda job: None


class _Bar:
    """A bar of tqdm, in a terminal or a notebook: meta-iterations done, and the outer loss."""

    def __init__(self, job: SeenJob) -> None:
        from tqdm.auto import tqdm

        self._bar = tqdm(
            total=job["progress"]["of"], initial=job["progress"]["meta_iteration"], desc=one_line(job.state)
        )

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def show(self, job: SeenJob) -> None:
        self._bar.set_description_str(one_line(job.state), refresh=False)
        losses = {"outer loss": job["latest_outer_loss"], "best": job["best_outer_loss"]}
        news = ", ".join(f"{name} {loss:.4g}" for name, loss in losses.items() if loss is not None)
        self._bar.set_postfix_str(news, refresh=False)
        self._bar.update(job["progress"]["meta_iteration"] - self._bar.n)
        self._bar.refresh()


def _somebody_looks_on() -> bool:
    return sys.stderr.isatty() or "ipykernel" in sys.modules
