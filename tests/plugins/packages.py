"""Packages that bring problem kinds, as an installer would leave them: modules, and the metadata of a distribution."""

import re
import tomllib
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "write-a-problem-kind.md"


def block(mark):
    """The code block of the how-to page that follows this comment."""
    return re.search(rf"<!-- {re.escape(mark)} -->\n```\w+\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]


def autoencoder(folder):
    """What the page shows, installed into a folder."""
    project = tomllib.loads(block("file: pyproject.toml"))["project"]
    (points,) = project["entry-points"].values()
    return install(
        folder, project["name"], project["version"], points, {"autoencoder": block("file: autoencoder.py")}
    )


def install(folder, package, version, points, modules):
    """Entry points {name: "module:attribute"} of a package that consists of these modules."""
    folder.mkdir(exist_ok=True)
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    found = folder / f"{package.replace('-', '_')}-{version}.dist-info"
    found.mkdir()
    (found / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    listed = [f"{name} = {target}" for name, target in points.items()]
    (found / "entry_points.txt").write_text("\n".join(["[retrograd.problems]", *listed, ""]))
    return folder
