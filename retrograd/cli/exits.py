"""How a command exits. Scripts rely on these numbers: they do not change."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Status of the process."""

    DONE = 0
    FAILED = 1  # the job failed or was cancelled, doctor misses something, or what nobody foresaw
    REFUSED = 2  # wrong usage, or a job that the specification refuses
    UNREACHABLE = 3  # no server, or one that cannot answer now
    NOT_FOUND = 4
    NOT_ALLOWED = 5  # no key, a wrong one, or one without the scope
    CONFLICT = 6  # not in this state; or a quota or rate is used up
    INTERRUPTED = 130


EPILOG = (
    "Exit status: 0 done; 1 failed or cancelled; 2 wrong usage or a refused job; 3 no server answers; 4 not found; "
    "5 not allowed; 6 not in this state, or a quota is used up; 130 interrupted."
)

_OF_HTTP = {
    401: Exit.NOT_ALLOWED,
    403: Exit.NOT_ALLOWED,
    404: Exit.NOT_FOUND,
    409: Exit.CONFLICT,
    410: Exit.NOT_FOUND,
    429: Exit.CONFLICT,
    502: Exit.UNREACHABLE,
    503: Exit.UNREACHABLE,
    504: Exit.UNREACHABLE,
}
_CLIENT_ERRORS = range(400, 500)


def of_http(status: int) -> Exit:
    """For an answer that says no."""
    return _OF_HTTP.get(status, Exit.REFUSED if status in _CLIENT_ERRORS else Exit.FAILED)
