"""`retrograd datasets`: data of one's own to learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retrograd.cli.app import AsJson, Folder, connect
from retrograd.cli.console import out, print_json, print_rows
from retrograd.cli.render import datasets_table

datasets = typer.Typer(name="datasets", help="Upload, list and delete data sets.", no_args_is_help=True)


@datasets.command()
def upload(
    files: Annotated[list[Path], typer.Argument(help="An npz file; or two IDX files, images and labels.")],
    name: Annotated[str | None, typer.Option(help="For lists.  [default: the file's name]")] = None,
    as_json: AsJson = False,
    folder: Folder = None,
) -> None:
    """Upload data to learn from: examples × features, or × height × width, and a label each."""
    if len(files) > 2:
        raise typer.BadParameter("give one npz file, or two IDX files: images and labels")
    with connect(folder) as client:
        sent = client.upload(files[0] if len(files) == 1 else (files[0], files[1]), name or files[0].stem)
    if as_json:
        print_json(sent)
    else:
        out.print(f"{sent['id']} {' × '.join(map(str, sent['inputs']['shape']))} {sent['inputs']['dtype']}")
        out.print(f'In a job: "dataset": {{"id": "{sent["id"]}", "split": …}}', soft_wrap=True)


@datasets.command("list")
def list_(
    as_json: AsJson = False,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many at most.")] = 20,
    folder: Folder = None,
) -> None:
    """Show the newest data sets."""
    with connect(folder) as client:
        found = client.datasets(limit)
    none = "No data sets yet; `retrograd datasets upload FILE.npz` makes one."
    print_rows(found, datasets_table, none=none, as_json=as_json)


@datasets.command()
def delete(dataset: Annotated[str, typer.Argument(help="Id, ds_…")], folder: Folder = None) -> None:
    """Delete a data set that no job still learns from."""
    with connect(folder) as client:
        client.delete_dataset(dataset)
    out.print(f"{dataset} is deleted")
