"""`retrograd datasets`: data of one's own to learn from."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from retrograd.cli.app import AsJson, Folder, connect, known
from retrograd.cli.completion import dataset_ids
from retrograd.cli.console import out, print_json, print_rows
from retrograd.cli.render import columns_table, datasets_table, rows_table, told
from retrograd.client.printable import one_line


class Task(StrEnum):
    """What a target is."""

    classification = "classification"
    regression = "regression"


class Missing(StrEnum):
    """What stands for what is missing."""

    mean = "mean"


datasets = typer.Typer(name="datasets", help="Upload, show, list and delete data sets.", no_args_is_help=True)

Dataset = Annotated[str, typer.Argument(help="Id, ds_…", autocompletion=dataset_ids)]

_TABLES = (".csv", ".tsv", ".parquet")


@datasets.command()
def upload(
    files: Annotated[
        list[Path], typer.Argument(help="An npz, CSV or Parquet file; or two IDX files, images and labels.")
    ],
    name: Annotated[str | None, typer.Option(help="For lists.  [default: the file's name]")] = None,
    target: Annotated[
        str | None, typer.Option(help="Column of a table that is to be told from the others.")
    ] = None,
    task: Annotated[Task | None, typer.Option(help="What the target is.  [default: by its values]")] = None,
    feature: Annotated[
        list[str] | None, typer.Option(help="Column to tell it from.  [default: all others]")
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="Column to leave out.")] = None,
    categorical: Annotated[list[str] | None, typer.Option(help="Feature that is one of a few values.")] = None,
    missing: Annotated[Missing | None, typer.Option(help="Fill in what is missing.  [default: refuse it]")] = None,
    as_json: AsJson = False,
    folder: Folder = None,
) -> None:
    """Upload data to learn from: examples × features, or × height × width, and a label or target each.

    Of a table, --target names the column to tell; --feature, --ignore and --categorical can be given several times.
    """
    if len(files) > 2:
        raise typer.BadParameter("give one npz, CSV or Parquet file, or two IDX files: images and labels")
    roles = {"task": task, "features": feature, "ignored": ignore, "categorical": categorical, "missing": missing}
    given = {role: one for role, one in roles.items() if one}
    if target is None and any(file.suffix.lower() in _TABLES for file in files):
        raise typer.BadParameter(
            f"{files[0].name} is a table; name the column to tell from the others by --target"
        )
    if target is None and given:
        raise typer.BadParameter(f"{next(iter(given))} is said of a table; name its --target too")
    columns = None if target is None else {"target": target, **given}
    with connect(folder) as client:
        sent = client.datasets.upload(
            files[0] if len(files) == 1 else (files[0], files[1]), name or files[0].stem, columns
        )
    if as_json:
        print_json(sent)
    else:
        out.print(
            f"{sent['id']} {' × '.join(map(str, sent['inputs']['shape']))} {sent['inputs']['dtype']}, {told(sent)}"
        )
        out.print(f'In a job: "dataset": {{"id": "{sent["id"]}", "split": …}}', soft_wrap=True)


@datasets.command()
def show(dataset: Dataset, as_json: AsJson = False, folder: Folder = None) -> None:
    """Show what is in a data set: classes or targets, and of a table its columns and first rows."""
    with connect(folder) as client, known("data set", dataset, "datasets"):
        found = client.datasets.get(dataset)
    if as_json:
        print_json(found)
        return
    out.print(f"{found['id']} {one_line(found['name'])}")
    out.print(f"{' × '.join(map(str, found['inputs']['shape']))} {found['inputs']['dtype']}, {told(found)}")
    if found["table"]:
        out.print(columns_table(found["table"]))
        out.print(rows_table(found["table"]))


@datasets.command("list")
def list_(
    as_json: AsJson = False,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many at most.")] = 20,
    folder: Folder = None,
) -> None:
    """Show the newest data sets."""
    with connect(folder) as client:
        found = client.datasets.list(limit)
    none = "No data sets yet; `retrograd datasets upload FILE.npz` makes one."
    print_rows(found, datasets_table, none=none, as_json=as_json)


@datasets.command()
def delete(dataset: Dataset, as_json: AsJson = False, folder: Folder = None) -> None:
    """Delete a data set that no job still learns from."""
    with connect(folder) as client, known("data set", dataset, "datasets"):
        client.datasets.delete(dataset)
    if as_json:
        print_json({"id": dataset, "state": "deleted"})
    else:
        out.print(f"{dataset} is deleted")
