"""Stands in for `core.programs.check`, which takes a while: what the program says of its JAX is what is done."""

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

from core.errors import InvalidProgram
from tests.programs import making

asked = json.load(sys.stdin)
try:
    summary = making.found(Path(asked["path"]).read_bytes())
except InvalidProgram as error:
    print(json.dumps({"ok": False, "error": {"code": "invalid_program", "message": str(error)}}))
    sys.exit()
match summary["manifest"]["jax_version"]:
    case "environment":
        summary["stablehlo_ops"] = sorted(os.environ)
        summary["custom_calls"] = [f"{asked['seconds']:g} s", f"{asked['memory_bytes']} bytes"]
    case "hang":
        time.sleep(1000)
    case "wait":  # for as long as the file beside this process's own is not there
        folder = Path(os.environ["TMPDIR"])
        (folder / f"{os.getpid()}.begun").touch()
        while not (folder / "go-on").exists():
            time.sleep(0.01)
    case "cpu":
        resource.setrlimit(resource.RLIMIT_CPU, (1, 5))
        while True:
            pass
    case "abort":
        signal.raise_signal(signal.SIGABRT)
    case "bug":
        raise AssertionError("a secret of the server's")
    case "refuse":
        message = "inner_loss: calls the host (custom call xla_python_cpu_callback); remove it"
        print(json.dumps({"ok": False, "error": {"code": "invalid_program", "message": message}}))
        sys.exit()
print(json.dumps({"ok": True, "summary": summary}))
