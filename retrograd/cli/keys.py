"""`retrograd keys`: who may use the project."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from retrograd.cli.app import AsJson, Folder, connect
from retrograd.cli.completion import key_prefixes
from retrograd.cli.console import err, out, print_json
from retrograd.cli.failures import NotFound
from retrograd.cli.render import keys_table
from retrograd.client import Client

keys = typer.Typer(
    name="keys",
    help="Create, list and revoke API keys of the project. Needs a key with the scope admin.",
    no_args_is_help=True,
)


class Scope(StrEnum):
    """What a key may do."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="To tell it apart, such as who has it.")],
    scopes: Annotated[
        list[Scope],
        typer.Option("--scope", help="read: look; write: change; admin: both, and keys. May be repeated."),
    ] = [Scope.READ, Scope.WRITE],  # noqa: B006 - Typer reads it, nothing changes it
    as_json: AsJson = False,
    folder: Folder = None,
) -> None:
    """Make a key and print it. It is shown this once."""
    with connect(folder) as client:
        key = client.keys.create(name, [scope.value for scope in scopes])
    if as_json:
        print_json(key)
    else:
        out.print(key["key"], soft_wrap=True)
        err.print(f"Keep it: it is not shown again. It may {' and '.join(key['scopes'])}.", soft_wrap=True)


@keys.command("list")
def list_keys(as_json: AsJson = False, folder: Folder = None) -> None:
    """Show the keys of the project, but for themselves."""
    with connect(folder) as client:
        known = client.keys.list()
    if as_json:
        print_json(known)
    else:
        out.print(keys_table(known))


@keys.command()
def revoke(
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="What it begins with, or its id.", autocompletion=key_prefixes)
    ],
    as_json: AsJson = False,
    folder: Folder = None,
) -> None:
    """Have a key refused from now on."""
    with connect(folder) as client:
        key_id = _find(client, key)
        client.keys.revoke(key_id)
    if as_json:
        print_json({"id": key_id, "state": "revoked"})
    else:
        out.print(f"{key} is revoked")


def _find(client: Client, key: str) -> str:
    """The id of the key in force that `key` abbreviates."""
    wanted = key.removesuffix("…")
    matches = [
        str(each["id"])
        for each in client.keys.list()
        if not each["revoked_at"] and wanted and (each["id"] == wanted or each["prefix"].startswith(wanted))
    ]
    if len(matches) == 1:
        return matches[0]
    what = f"{len(matches)} keys start" if matches else "no key in force starts"
    raise NotFound(f"{what} with {key!r}; `retrograd keys list` shows them, each with its id")
