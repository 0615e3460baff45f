"""Stands in for `core.foretell`, which takes a while. The name of the job says what it is to do."""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--seconds", type=float)
parser.add_argument("--bytes", type=int)
limits = parser.parse_args()
what, _, where = json.load(sys.stdin)["name"].partition(" ")

ENGINE = {
    "name": "reversible",
    "fits": True,
    "seconds": 0.5,
    "job_seconds": 2.0,
    "device_bytes": 7,
    "host_bytes": 0,
}
PLAN = {
    "machine": f"cpu: {limits.seconds:g} s, {limits.bytes} bytes",
    "engine": "reversible",
    "fallback": "unrolled",
    "hypergradients": 4,
    "trainings": 6,
    "engines": [
        ENGINE | {"remark": ""},
        dict.fromkeys(ENGINE) | {"name": "unrolled", "fits": False, "remark": "training diverged: at once"},
    ],
}

match what:
    case "environment":
        PLAN["machine"] = json.dumps({name: value for name, value in os.environ.items() if "RETROGRAD" in name})
    case "wait":  # until a file is there
        Path(f"{where}.begun").touch()
        while not Path(where).exists():
            time.sleep(0.01)
    case "hang":
        time.sleep(1000)
    case "alarm":
        signal.raise_signal(signal.SIGALRM)
    case "abort":
        signal.raise_signal(signal.SIGABRT)
    case "bug":
        raise AssertionError("a secret of the server's")
    case "refuse":
        details = {"errors": [{"loc": ["problem", "dataset"], "msg": "is damaged; repair it"}]}
        print(json.dumps({"error": {"code": "invalid_spec", "message": "no", "details": details}}))
        sys.exit()
    case "memory":
        print(json.dumps({"error": {"code": "out_of_memory", "message": "it needs more", "details": {}}}))
        sys.exit()
print(json.dumps({"plan": PLAN}))
