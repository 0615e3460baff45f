"""Following a job on the terminal, or line by line where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn

from retrograd.cli.console import err
from retrograd.cli.render import duration, number
from retrograd.client import Client


def follow(client: Client, job_id: str, check: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Show progress until the job has ended, and return it. `check` is called after every poll."""
    if not err.is_terminal:
        return client.wait(job_id, _lines(check))
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[news]}"))
    with Progress(*columns, console=err) as bar:
        task = bar.add_task("queued", total=None, news="")

        def show(job: dict[str, Any]) -> None:
            progress = job["progress"]
            bar.update(
                task,
                description=job["state"],
                completed=progress["meta_iteration"],
                total=progress["of"],
                news=_news(job),
            )
            check()

        return client.wait(job_id, show)


def _lines(check: Callable[[], None]) -> Callable[[dict[str, Any]], None]:
    """A line for every tenth of the way, and for every change of state."""
    shown: set[tuple[str, int]] = set()

    def show(job: dict[str, Any]) -> None:
        progress = job["progress"]
        place = (job["state"], 10 * progress["meta_iteration"] // progress["of"])
        if place not in shown:
            shown.add(place)
            err.print(f"{job['state']}: {_news(job)}", soft_wrap=True)
        check()

    return show


def _news(job: dict[str, Any]) -> str:
    progress = job["progress"]
    news = f"meta-iteration {progress['meta_iteration']}/{progress['of']}"
    if job["latest_outer_loss"] is not None:
        news += f" · outer loss {number(job['latest_outer_loss'])}, best {number(job['best_outer_loss'])}"
    if job["state"] == "running" and progress["meta_iteration"] == progress["of"]:
        news += " · evaluating"
    elif progress["eta_seconds"] is not None:
        news += f" · {duration(progress['eta_seconds'])} left"
    return news
