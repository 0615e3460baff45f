"""`retrograd doctor`: what is missing on this machine, and how to get it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import psutil
import typer
from rich.table import Table
from rich.text import Text

from core.errors import CoreError
from retrograd.cli.app import AsJson, Folder
from retrograd.cli.console import out, print_json
from retrograd.client import Client
from retrograd.home import Home
from retrograd.local.binaries import postgres_binary, unprivileged, valkey_binary
from retrograd.local.stack import DEFAULT_PORT, PortTaken, require_free

_MEMORY_BYTES = 2 << 30  # JAX with its compiler, twice (parent and child), beside Postgres
_DISK_BYTES = 1 << 30

_JAX = """
import jax
jax.config.update("jax_enable_x64", True)
print(jax.__version__, jax.numpy.ones(1).dtype, *jax.devices(), sep="\\t")
"""


@dataclass(frozen=True)
class Finding:
    """What one check saw. `missing` is needed, `note` is not."""

    check: str
    verdict: Literal["ok", "note", "missing"]
    seen: str
    remedy: str = ""


def doctor(
    folder: Folder = None,
    port: Annotated[int, typer.Option(help="Port that `retrograd up` would take.")] = DEFAULT_PORT,
    as_json: AsJson = False,
) -> None:
    """Say what is missing on this machine, and the remedy."""
    home = Home(folder)
    findings = [
        *_python(),
        *_jax(),
        *_embedded(),
        *_data(),
        *_machine(home),
        *_server(home, port),
    ]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        styles = {"ok": "green", "note": "yellow", "missing": "bold red"}
        table = Table.grid(padding=(0, 2))
        for finding in findings:
            verdict = Text(finding.verdict, styles[finding.verdict])
            remedy = Text(f"\n{finding.remedy}" if finding.remedy else "", "dim")
            table.add_row(verdict, finding.check, Text.assemble(finding.seen, remedy))
        out.print(table)
    if any(finding.verdict == "missing" for finding in findings):
        raise typer.Exit(1)


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    enough = sys.version_info >= (3, 11)
    yield Finding(
        "Python", "ok" if enough else "missing", version, "" if enough else "install Python 3.11 or later"
    )
    needed = [line for line in metadata.requires("retrograd") or [] if "extra ==" not in line]
    names = [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in needed]
    absent = [name for name in names if not _installed(name)]
    if absent:
        yield Finding("packages", "missing", f"not installed: {', '.join(absent)}", "pip install retrograd")
    else:
        yield Finding("packages", "ok", f"all {len(names)} installed")


def _installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def _jax() -> Iterator[Finding]:
    # in a process of its own: a broken accelerator can take its process down
    run = subprocess.run([sys.executable, "-c", _JAX], capture_output=True, text=True, check=False)
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        yield Finding("JAX", "missing", last, "reinstall it: pip install --force-reinstall jax jaxlib")
        return
    version, dtype, *devices = run.stdout.strip().split("\t")
    yield Finding("JAX", "ok", f"{version} on {', '.join(devices)}")
    wide = dtype == "float64"
    remedy = "" if wide else "unset JAX_ENABLE_X64; reversible arithmetic needs 64 bits"
    yield Finding("64-bit arithmetic", "ok" if wide else "missing", f"default {dtype}", remedy)


def _embedded() -> Iterator[Finding]:
    servers: list[tuple[str, Callable[[], list[str]]]] = [
        ("embedded Postgres", lambda: [*unprivileged(), postgres_binary("postgres"), "--version"]),
        ("embedded Valkey", lambda: [valkey_binary(), "--version"]),
    ]
    for name, command in servers:
        try:
            run = subprocess.run(command(), capture_output=True, text=True, check=True)
            version = re.search(r"\d+(\.\d+)+", run.stdout)
            yield Finding(name, "ok", version[0] if version else run.stdout.strip())
        except CoreError as error:
            yield Finding(name, "missing", str(error), "pip install 'retrograd[embedded]'")
        except (OSError, subprocess.CalledProcessError) as error:
            seen = getattr(error, "stderr", None) or str(error)
            yield Finding(
                name, "missing", f"does not run: {seen.strip()}", "set RETROGRAD_URL to a server elsewhere"
            )


def _data() -> Iterator[Finding]:
    from core import datasets  # NumPy: not for the sake of `retrograd --help`

    folder = os.environ.get("RETROGRAD_DATA")
    names = ", ".join(datasets.available())
    if folder is None:
        yield Finding(
            "data sets", "ok", names, "for others, set RETROGRAD_DATA to a folder with one sub-folder each"
        )
    elif Path(folder).is_dir():
        yield Finding("data sets", "ok", f"{names} (RETROGRAD_DATA={folder})")
    else:
        yield Finding("data sets", "missing", f"RETROGRAD_DATA={folder} is no folder", "correct or unset it")


def _machine(home: Home) -> Iterator[Finding]:
    memory = psutil.virtual_memory().available
    enough = memory >= _MEMORY_BYTES
    remedy = "" if enough else "2 GiB are comfortable; close other programs"
    yield Finding("memory", "ok" if enough else "note", f"{memory / 2**30:.1f} GiB free", remedy)
    place = home.path.resolve()
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK | os.X_OK):
        yield Finding(
            "folder", "missing", f"cannot write to {place}", "choose another with --folder or RETROGRAD_HOME"
        )
        return
    disk = shutil.disk_usage(place).free
    enough = disk >= _DISK_BYTES
    remedy = "" if enough else "make room, or choose another place with --folder"
    yield Finding("folder", "ok" if enough else "note", f"{home.path}, {disk / 2**30:.1f} GiB free", remedy)


def _server(home: Home, port: int) -> Iterator[Finding]:
    try:
        with Client(home=home) as client:
            client.jobs.list(1)
        yield Finding("server", "ok", f"{client.url} answers and accepts the key")
    except CoreError as error:
        known = os.environ.get("RETROGRAD_URL") or home.url
        if known:
            yield Finding("server", "missing" if os.environ.get("RETROGRAD_URL") else "note", str(error))
        else:
            yield Finding("server", "note", "none runs here", "retrograd up")
        try:
            require_free(port)
            yield Finding("port", "ok", f"{port} is free")
        except PortTaken as taken:
            yield Finding("port", "note", str(taken))
