"""`retrograd programs`: problems of one's own, exported by JAX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from retrograd.cli.app import AsJson, Folder, connect, known
from retrograd.cli.completion import program_ids
from retrograd.cli.console import out, print_json, print_rows
from retrograd.cli.render import program_details, programs_table

programs = typer.Typer(
    name="programs", help="Send, list, show and delete problems of your own.", no_args_is_help=True
)

Program = Annotated[str, typer.Argument(help="Id, pr_…", autocompletion=program_ids)]


@programs.command()
def upload(
    file: Annotated[Path, typer.Argument(help="What export_problem has written.")],
    name: Annotated[str | None, typer.Option(help="For lists.  [default: the file's name]")] = None,
    as_json: AsJson = False,
    folder: Folder = None,
) -> None:
    """Send a program, which the server checks and keeps."""
    with connect(folder) as client:
        sent = client.programs.upload(file, name or file.stem)
    if as_json:
        print_json(sent)
        return
    out.print(f"{sent['id']} {sent['num_steps']} steps; learns {', '.join(one['name'] for one in sent['hyper'])}")
    named: dict[str, Any] = {"kind": "program", "id": sent["id"]}
    if sent["data"]:
        named["data"] = dict.fromkeys(sent["data"], "ds_…")
    out.print(f'In a job: "problem": {json.dumps(named, ensure_ascii=False)}', soft_wrap=True)


@programs.command("list")
def list_(
    as_json: AsJson = False,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many at most.")] = 20,
    folder: Folder = None,
) -> None:
    """Show the newest programs."""
    with connect(folder) as client:
        found = client.programs.list(limit)
    none = "No programs yet; `retrograd programs upload FILE.zip` sends one that export_problem has written."
    print_rows(found, programs_table, none=none, as_json=as_json)


@programs.command()
def show(program: Program, as_json: AsJson = False, folder: Folder = None) -> None:
    """Show what a program takes and returns, and what the server found in it."""
    with connect(folder) as client, known("program", program, "programs"):
        found = client.programs.get(program)
    if as_json:
        print_json(found)
    else:
        out.print(program_details(found))


@programs.command()
def delete(program: Program, as_json: AsJson = False, folder: Folder = None) -> None:
    """Delete a program that no job still runs."""
    with connect(folder) as client, known("program", program, "programs"):
        client.programs.delete(program)
    if as_json:
        print_json({"id": program, "state": "deleted"})
    else:
        out.print(f"{program} is deleted")
