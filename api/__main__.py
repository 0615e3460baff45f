"""`python -m api --host 127.0.0.1 --port 8000`."""

from __future__ import annotations

import argparse

import uvicorn

_MAX_HEADER_BYTES = 16_384


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m api", description="The Retrograd HTTP service.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    uvicorn.run(
        "api.app:create_app",
        factory=True,
        host=arguments.host,
        port=arguments.port,
        server_header=False,
        timeout_graceful_shutdown=10,
        http="h11",  # whose bound on headers is the next line
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
    )


if __name__ == "__main__":
    main()
