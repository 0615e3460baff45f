"""Following a job on the terminal, or line by line where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.progress import BarColumn, Progress, TextColumn

from retrograd.cli.console import err
from retrograd.cli.render import duration, number
from retrograd.client import Job

_BAR_WIDTH = 12  # leaves room for the news on 80 columns
_SLOW_SECONDS = 2.0  # after which a first meta-iteration is being compiled


def follow(job: Job, check: Callable[[], None] = lambda: None) -> None:
    """Show progress until the job has ended. `check` is called after every poll."""
    tell = _Teller()
    if not err.is_terminal:
        job.wait(progress=_lines(tell, check))
        return
    said, news = (TextColumn(one, markup=False) for one in ("{task.description}", "{task.fields[news]}"))
    columns = (said, BarColumn(_BAR_WIDTH), news)
    with Progress(*columns, console=err) as bar:
        task = bar.add_task("queued", total=None, news="")

        def show(job: Job) -> None:
            progress = job["progress"]
            bar.update(
                task,
                description=job["state"],
                completed=progress["meta_iteration"],
                total=progress["of"],
                news=tell.news(job, timed=True),
            )
            check()

        job.wait(progress=show)


def _lines(tell: _Teller, check: Callable[[], None]) -> Callable[[Job], None]:
    """A line for every tenth of the way, and for every change of state."""
    shown: set[tuple[str, int, str]] = set()

    def show(job: Job) -> None:
        progress = job["progress"]
        place = (job["state"], 10 * progress["meta_iteration"] // max(progress["of"], 1), tell.phase(job))
        if place not in shown:
            shown.add(place)
            err.print(f"{job['state']}: {tell.news(job)}", soft_wrap=True)
        check()

    return show


class _Teller:
    """What there is to say about a job, poll after poll."""

    def __init__(self) -> None:
        self._stage: tuple[str, bool, bool] | None = None
        self._since = 0.0

    def phase(self, job: Job) -> str:
        """What a running job does while its meta-iterations stand still."""
        self._look(job)
        if job["state"] != "running":
            return ""
        progress = job["progress"]
        if progress["meta_iteration"] == progress["of"]:
            return "evaluating"
        if progress["meta_iteration"] or self._seconds() < _SLOW_SECONDS:
            return ""
        return "searching" if job["spec"]["meta"]["warm_start"] and not job["losses"] else "compiling"

    def news(self, job: Job, *, timed: bool = False) -> str:
        """In one line. Timed, for whoever sees it change: how long it has stood still."""
        progress = job["progress"]
        news = [f"meta-iteration {progress['meta_iteration']}/{progress['of']}"]
        if job["latest_outer_loss"] is not None:
            news.append(f"outer loss {number(job['latest_outer_loss'])}, best {number(job['best_outer_loss'])}")
        phase = self.phase(job)
        if phase:
            news.append(phase)
        if timed and (phase or job["state"] == "queued"):
            news.append(duration(self._seconds()))
        elif not phase and progress["eta_seconds"] is not None:
            news.append(f"{duration(progress['eta_seconds'])} left")
        return " · ".join(news)

    def _look(self, job: Job) -> None:
        """Note since when it has been as it is: waiting, before its first meta-iteration, amid them, after the last."""
        done, of = job["progress"]["meta_iteration"], job["progress"]["of"]
        stage = (job["state"], done == 0, done == of)
        if stage != self._stage:
            self._stage, self._since = stage, time.monotonic()

    def _seconds(self) -> float:
        return time.monotonic() - self._since
