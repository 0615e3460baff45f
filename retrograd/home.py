"""The folder of an embedded stack: its data, its API key, and the address at which it answers now."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from core.errors import CoreError

DEFAULT = ".retrograd"


class FolderTaken(CoreError):  # noqa: N818 - named for what happened
    """A folder that holds something, and no stack."""

    code = "folder_taken"

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} holds other things and no stack of Retrograd; give a folder of its own by --folder or "
            f"RETROGRAD_HOME, or leave both out: that is {DEFAULT} in the current folder"
        )


class Home:
    """`RETROGRAD_HOME`, else `.retrograd` in the current folder. Nothing is made before it is needed."""

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = Path(path or os.environ.get("RETROGRAD_HOME") or DEFAULT)

    def make(self) -> Path:
        """Create the folder, for its owner alone, and return its absolute path.

        Raises:
            FolderTaken: it is somebody else's. Nothing in it is changed, nor who may read it.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            if self.api_key_file.is_file():
                self.path.chmod(0o700)
            elif any(self.path.iterdir()):
                raise FolderTaken(self.path) from None
        self.ensure_api_key()  # first, as by it the folder is known for ours, however far a start comes
        ignored = self.path / ".gitignore"
        if not ignored.exists():
            ignored.write_text("*\n")  # keys and data are never committed by accident
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
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip() or None
    except FileNotFoundError:
        return None
