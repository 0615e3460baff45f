"""Several jobs."""

from __future__ import annotations

from typing import TypeVar

from retrograd.client.seen import SeenJob

J = TypeVar("J", bound=SeenJob)


class JobList(list[J]):
    """A list that notebooks show as a table."""

    def _repr_html_(self) -> str:
        from retrograd.client import html

        return html.jobs([job.document for job in self])
