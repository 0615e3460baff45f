"""The folder of an embedded stack: its data, its API key, and the address at which it answers now."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

DEFAULT = ".retrograd"


class Home:
    """`RETROGRAD_HOME`, else `.retrograd` in the current folder. Nothing is made before it is needed."""

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = Path(path or os.environ.get("RETROGRAD_HOME") or DEFAULT)

    def make(self) -> Path:
        """Create the folder, for its owner alone, and return its absolute path."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)
        (self.path / ".gitignore").write_text("*\n")  # keys and data are never committed by accident
        return self.path.resolve()

    @property
    def url_file(self) -> Path:
        """Holds the API's address while a stack runs."""
        return self.path / "url"

    @property
    def api_key_file(self) -> Path:
        """Holds the one API key, made once."""
        return self.path / "api-key"

    @property
    def url(self) -> str | None:
        """Address of the running stack."""
        return _text_of(self.url_file)

    @property
    def api_key(self) -> str | None:
        """The key that its API accepts."""
        return _text_of(self.api_key_file)

    def ensure_api_key(self) -> str:
        """The kept key, made now if there is none."""
        if (key := self.api_key) is None:
            key = f"rg_{secrets.token_urlsafe(32)}"
            write_private(self.api_key_file, key + "\n")
        return key


def write_private(path: Path, text: str) -> None:
    """Replace `path` in one step by a file that only its owner can read."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    unfinished.replace(path)


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except FileNotFoundError:
        return None
