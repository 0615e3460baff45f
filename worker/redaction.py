"""What may be logged and stored of what others' libraries say."""

from __future__ import annotations

import re

_PASSWORDS = re.compile(r"(?<=://)[^/@\s]+@")


def reason(error: BaseException) -> str:
    """What went wrong, in a line, without the users and passwords of addresses."""
    first_line = str(error).partition("\n")[0]
    return _PASSWORDS.sub("", f"{type(error).__name__}: {first_line}")
