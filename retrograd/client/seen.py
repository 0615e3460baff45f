"""A job as it was when it was last looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from retrograd.client.call import Json, Seen
from retrograd.client.printable import one_line

ENDED = frozenset({"succeeded", "failed", "cancelled"})


class SeenJob(Mapping[str, Any]):
    """The fields of the job's document, such as `job["losses"]`, as of the last answer that had them."""

    def __init__(self, seen: Seen) -> None:
        self.see(seen)

    def see(self, seen: Seen | None) -> None:
        """Take over what an answer says; None: that nothing has changed."""
        if seen is not None:
            self._seen = (
                seen  # in one step: threads that share the job never have an old document by a new version
            )

    @property
    def document(self) -> Json:
        """All fields."""
        return self._seen.document

    @property
    def etag(self) -> str | None:
        """The version of the document, if the answer named one."""
        return self._seen.etag

    @property
    def id(self) -> str:
        """By which the service knows it."""
        return str(self.document["id"])

    @property
    def name(self) -> str:
        """What its specification calls it."""
        return str(self.document["name"])

    @property
    def state(self) -> str:
        """queued, running, paused, succeeded, failed or cancelled."""
        return str(self.document["state"])

    @property
    def ended(self) -> bool:
        """Whether it has succeeded, failed or been cancelled."""
        return self.state in ENDED

    def __getitem__(self, field: str) -> Any:
        try:
            return self.document[field]
        except KeyError:
            if "spec" in self.document:
                raise
            raise KeyError(f"{field}: lists do not have it; `refresh` the job first") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.document)

    def __len__(self) -> int:
        return len(self.document)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.name!r}: {one_line(self.state)}>"

    def _repr_html_(self) -> str:
        from retrograd.client import html

        return html.job(self.document)
