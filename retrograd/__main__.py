"""The command `retrograd`, and `python -m retrograd`. Light: what is heavy is loaded where an interrupt is expected."""

from __future__ import annotations

import os
import sys

_INTERRUPTED = 130  # as `retrograd.cli.exits` has it, which is not loaded yet


def main() -> None:
    """Run the command, whatever of the standard streams its caller has closed, and whenever it is interrupted."""
    _open_what_is_closed()
    try:
        from retrograd import cli

        cli.main()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


def _open_what_is_closed() -> None:
    """Else the next file that is opened would be taken for standard output."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # the lowest number that is free is the one that `open` gives
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


if __name__ == "__main__":
    main()
