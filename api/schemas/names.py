"""What users call things is shown to others, on pages and on terminals."""

from __future__ import annotations


def printable(name: str) -> str:
    """The name, if each of its characters can be seen: no control, no line break, nothing that turns text around.

    Raises:
        ValueError: it holds another.
    """
    if not name.isprintable():
        raise ValueError("holds characters that cannot be seen, such as a line break; remove them")
    return name
