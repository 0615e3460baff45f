"""Commands in a pseudo-terminal, and what is left on its screen."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from dataclasses import dataclass

_SEQUENCE = re.compile(r"\x1b\[(?P<numbers>[\d;?]*)(?P<letter>[A-Za-z])|\x1b\][^\x07]*\x07|[\r\n]|[^\x1b\r\n]+")


class Screen:
    """As many lines as are written, with what the command wrote last: of a bar that moves, its last state."""

    def __init__(self):
        self._lines, self._row, self._column = [""], 0, 0

    def write(self, text):
        for found in _SEQUENCE.finditer(text):
            number = int(found["numbers"]) if (found["numbers"] or "").isdigit() else 0
            match found["letter"] or found[0]:
                case "\r":
                    self._column = 0
                case "\n":
                    self._row += 1
                    self._lines += [""] * (self._row + 1 - len(self._lines))
                case "A":
                    self._row = max(0, self._row - (number or 1))
                case "K":
                    line = self._lines[self._row]
                    self._lines[self._row] = "" if number == 2 else line[: self._column]
                case _ if found["letter"] is None and not found[0].startswith("\x1b"):
                    self._put(found[0])

    def _put(self, text):
        line = self._lines[self._row].ljust(self._column)
        self._lines[self._row] = line[: self._column] + text + line[self._column + len(text) :]
        self._column += len(text)

    def __str__(self):
        return "\n".join(line.rstrip() for line in self._lines).strip("\n")


@dataclass
class Terminal:
    """A terminal of some columns, in a folder, with an environment."""

    folder: os.PathLike
    environment: dict
    columns: int = 100

    def start(self, command):
        """A running command, and the file descriptor that is its terminal's other side."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, self.columns, 0, 0))
        process = subprocess.Popen(
            ["bash", "-c", command], stdin=theirs, stdout=theirs, stderr=theirs, cwd=self.folder,
            env=self.environment | {"TERM": "xterm-256color"}, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        return process, ours

    def run(self, command, answer=""):
        """What a command leaves on the screen, and its status. `answer` is typed once it asks."""
        process, ours = self.start(command)
        told = read(ours, until="]: ") if answer else b""
        os.write(ours, answer.encode())
        told += read(ours)
        os.close(ours)
        return on_screen(told), process.wait()


def read(ours, until=None):
    """What is written until the command ends, or until `until` is."""
    told = b""
    while until is None or until.encode() not in told:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # as Linux says that the other side is closed
            piece = b""
        if not piece:
            break
        told += piece
    return told


def on_screen(told):
    """What is left on the screen of what was written."""
    screen = Screen()
    screen.write(told.decode())
    return str(screen)
