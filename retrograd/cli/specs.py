"""A job as a user writes it: a file, or a preset, and settings. What is wrong with it is said where it stands."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from retrograd.cli.mistakes import Mistake, Refused, Written
from retrograd.cli.overrides import Setting, override
from retrograd.cli.positions import Node, Path, Span
from retrograd.cli.reading import check_sendable, read_file
from retrograd.client import ApiError

T = TypeVar("T")

_LEADING_PATH = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*")  # of a field, with which many messages begin


@dataclass(frozen=True)
class Spec:
    """A job to be asked for, and what it was made of: a file or a preset, and settings, of which later ones win."""

    name: str  # as users call it
    document: dict[str, Any]
    written: Written | None  # None for a preset
    root: Node | None
    settings: tuple[Setting, ...] = ()

    def accepted(self, send: Callable[[dict[str, Any]], T]) -> T:
        """What the server answers to the job.

        Raises:
            Refused: each of its mistakes, where the user made it.
        """
        try:
            return send(self.document)
        except ApiError as error:
            if error.code != Refused.code or not error.errors:
                raise
            mistakes = [self._mistake(tuple(one["loc"]), one["msg"]) for one in error.errors]
            raise Refused(self.name, mistakes) from error

    def _mistake(self, path: Path, message: str) -> Mistake:
        meant, of_key = self._meant(path, message), message.startswith("unknown field")
        for setting in reversed(self.settings):
            if (span := self._in_setting(setting, meant, of_key)) is not None:
                return Mistake(message, path, setting.written, span)
        if self.root is None:
            return Mistake(message, path)
        if not meant:  # about the job as a whole
            return Mistake(message, path, self.written)
        node, taken = self.root.follow(meant)
        if taken < len(meant):  # it is missing
            return Mistake(message, path, self.written, node.beginning)
        return Mistake(message, path, self.written, node.key if of_key and node.key is not None else node.span)

    def _in_setting(self, setting: Setting, path: Path, of_key: bool) -> Span | None:
        """What of a setting is to blame for the field at `path`; None if that was not set by it."""
        set_path = setting.path
        if path[: len(set_path)] == set_path:
            node, taken = setting.node.follow(path[len(set_path) :])
            if of_key and taken == len(path) - len(set_path):
                return node.key or setting.parts[-1]
            return node.span
        if path and set_path[: len(path)] == path:  # made on the way to what was set, unless it was there
            there = self.root is not None and self.root.follow(path)[1] == len(path)
            if not there and of_key:
                return setting.parts[len(path) - 1]
        return None

    def _meant(self, path: Path, message: str) -> Path:
        """The field that the message names first, where the place it is given for is that of a whole part."""
        named = _LEADING_PATH.match(message)
        if named is None:
            return path
        names = named[0].split(".")
        return (*path, *names) if _has(self.document, (*path, names[0])) else path


def of_file(name: str) -> Spec:
    """A job from a file; `-` is standard input."""
    document, written, root = read_file(name)
    return Spec(written.name, document, written, root)


def of_preset(name: str, document: dict[str, Any]) -> Spec:
    """A job that is ready, as the server has it."""
    return Spec(f"preset {name}", document, None, None)


def with_settings(spec: Spec, settings: Sequence[Setting]) -> Spec:
    """The same with some fields changed."""
    check_sendable(spec.name, [(setting.path, setting.written, setting.node) for setting in settings])
    return replace(spec, document=override(spec.document, settings), settings=tuple(settings))


def _has(document: Any, path: Path) -> bool:
    for part in path:
        in_list = isinstance(document, list) and isinstance(part, int) and part < len(document)
        if not in_list and not (isinstance(document, dict) and part in document):
            return False
        document = document[part]
    return True
