"""Learn hyperparameters by exact gradient descent through whole training runs.

`Client` and `AsyncClient` talk to a server, and `service` finds or starts one; every public name of `core`, such as
`hypergradient`, is here as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrograd.client import AsyncClient as AsyncClient
    from retrograd.client import Client as Client
    from retrograd.local.service import service as service

    __version__: str


def __getattr__(name: str) -> Any:
    """Import on first use: `import retrograd` loads neither JAX nor an HTTP client."""
    if name == "__version__":
        from importlib.metadata import version

        return version("retrograd")
    if name in ("AsyncClient", "Client"):
        from retrograd import client

        return getattr(client, name)
    if name == "service":
        from retrograd.local.service import service

        return service
    import core

    if name in core.__all__:
        return getattr(core, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    import core

    return sorted({"AsyncClient", "Client", "__version__", "service", *core.__all__})
