"""What a shell completes: jobs, presets, fields. At once or not at all: nobody waits for a completion."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable, Iterator
from enum import StrEnum
from threading import Thread
from typing import Annotated, Any

import httpx
import typer

from retrograd.client import Client
from retrograd.home import Home

Suggestion = tuple[str, str]  # what is completed, and what is said of it

_SECONDS = 2.0
_HARMFUL = re.compile(r"[^\w .,:()+-]")  # may mean something to a shell: zsh evaluates what it is told
_SHOWN = 50
_SHORT = 8  # characters of an id


class Shell(StrEnum):
    """One that completes."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"
    powershell = "powershell"


def completion(shell: Annotated[Shell, typer.Argument(help="Which one.")]) -> None:
    """Print a script that makes a shell complete commands, jobs, presets and fields.

    For bash: `retrograd completion bash >> ~/.bashrc`. Or have it installed by `retrograd --install-completion`.
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    names = {"prog_name": "retrograd", "complete_var": "_RETROGRAD_COMPLETE"}
    typer.echo(get_completion_script(**names, shell=shell.value))


def job_ids(ctx: typer.Context, incomplete: str) -> list[Suggestion]:
    """The newest jobs, and `latest`."""

    def newest(client: Client) -> list[Suggestion]:
        length = _SHORT if len(incomplete) <= _SHORT else None
        return [(job.id[:length], f"{job.state} {job.name}".strip()) for job in client.jobs.list(_SHOWN)]

    return [("latest", "the newest one"), *_from_server(ctx, newest)]


def dataset_ids(ctx: typer.Context) -> list[Suggestion]:
    """The newest data sets."""
    return _from_server(ctx, lambda client: [(one["id"], one["name"]) for one in client.datasets.list(_SHOWN)])


def program_ids(ctx: typer.Context) -> list[Suggestion]:
    """The newest programs."""
    return _from_server(ctx, lambda client: [(one["id"], one["name"]) for one in client.programs.list(_SHOWN)])


def key_prefixes(ctx: typer.Context) -> list[Suggestion]:
    """The keys in force."""
    return _from_server(
        ctx, lambda client: [(one["prefix"], one["name"]) for one in client.keys.list() if not one["revoked_at"]]
    )


def preset_names() -> list[str]:
    """Those of this version, which are known without a server."""
    from core import presets  # loads the specification

    return list(presets.names())


def fields(ctx: typer.Context) -> list[Suggestion]:
    """The fields of the preset that is given, as far as it has them, each with its value."""
    from core import presets

    with contextlib.suppress(presets.UnknownPreset):
        document = presets.get(ctx.params.get("preset") or "").model_dump(mode="json")
        return [(f"{path}=", str(value)) for path, value in _fields(document)]
    return []


def _fields(document: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if isinstance(value, dict) and value:
            yield from _fields(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _from_server(ctx: typer.Context, ask: Callable[[Client], list[Suggestion]]) -> list[Suggestion]:
    """Nothing where no server answers in time: whatever were said would stand amid what is being typed."""
    home, told = Home(ctx.params.get("folder")), list[Suggestion]()

    def asked() -> None:
        with contextlib.suppress(Exception), Client(home=home, timeout=_SECONDS) as client:
            _knock(client.url)
            told.extend(ask(client))

    asking = Thread(target=asked, daemon=True)  # so that neither a second attempt nor a slow answer is waited for
    asking.start()
    asking.join(_SECONDS)
    return [(_HARMFUL.sub(" ", one), _HARMFUL.sub(" ", said)) for one, said in told]


def _knock(url: str) -> None:
    """Once: the client itself would try again."""
    server = httpx.URL(url)
    port = server.port or {"http": 80, "https": 443}[server.scheme]
    socket.create_connection((server.host, port), _SECONDS).close()
