"""Text of others, made fit to be shown: no sign in it moves the cursor, sets a title, or turns the line around."""

from __future__ import annotations

import unicodedata

REPLACEMENT = "�"

_HARMFUL = frozenset(
    {"Cc", "Cf", "Cs", "Zl", "Zp"}
)  # controls, formats (bidi, zero width), surrogates, separators
_KEPT = "\n\t"


def is_harmful(sign: str) -> bool:
    """Whether a character is not to be shown as it is."""
    return unicodedata.category(sign) in _HARMFUL


def printable(text: str, kept: str = _KEPT) -> str:
    """As many characters, harmful ones replaced, but for those that are kept."""
    if text.isprintable():
        return text
    return "".join(REPLACEMENT if is_harmful(sign) and sign not in kept else sign for sign in text)


def one_line(text: str) -> str:
    """What is to stand in one line, such as a name: a line of its own might pass for something else."""
    return printable(text, kept="")
