"""What may be logged and stored of what others' libraries say."""

from __future__ import annotations

import re

_PASSWORDS = re.compile(r"(?<=://)[^/@\s]+@")


def redacted(text: str) -> str:
    """Without the users and passwords of addresses."""
    return _PASSWORDS.sub("", text)
