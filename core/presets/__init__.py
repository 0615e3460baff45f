"""Jobs with a name, as complete JobSpecs: one JSON file each in this folder."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from core.errors import CoreError
from core.spec import JobSpec


class UnknownPreset(CoreError):  # noqa: N818 - named for what happened
    """No preset of this name."""

    code = "unknown_preset"

    def __init__(self, name: str) -> None:
        super().__init__(f"no preset {name!r}; known: {', '.join(names())}")


@cache
def names() -> tuple[str, ...]:
    """Names of all presets, sorted."""
    return tuple(
        sorted(
            entry.name.removesuffix(".json") for entry in files(__name__).iterdir() if entry.name.endswith(".json")
        )
    )


@cache
def get(name: str) -> JobSpec:
    """The preset's JobSpec, ready to be submitted."""
    if name not in names():
        raise UnknownPreset(name)
    return JobSpec.model_validate_json((files(__name__) / f"{name}.json").read_text())
