"""One cache of compiled programs for all processes of a run, those that tests start among them: a pytest plugin."""

import os
import shutil
import tempfile

FOLDER = "JAX_COMPILATION_CACHE_DIR"


def pytest_configure(config):
    """In the process that starts the others, before any of them imports JAX."""
    if hasattr(config, "workerinput") or FOLDER in os.environ:
        return
    os.environ[FOLDER] = folder = tempfile.mkdtemp(prefix="retrograd-compiled-")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
