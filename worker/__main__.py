"""`python -m worker`: a worker on the queue of `RETROGRAD_QUEUE`, the way `worker.app` means it to be run."""

from __future__ import annotations

from core.config import get_settings
from worker.app import app


def main() -> None:
    """Run until SIGTERM or Ctrl-C."""
    # gossip, mingle and heartbeats only tell workers of each other, which none of ours asks
    silent = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    app.worker_main(["--quiet", "worker", "-c", "1", "-Q", get_settings().complete().queue, "-l", "INFO", *silent])


if __name__ == "__main__":
    main()
