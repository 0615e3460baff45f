"""Records docs/cli-session.txt: real commands at a real service, as they stand in a terminal of 100 columns.

python -m tests.retrograd.session
"""

import os
import re
import signal
import sys
import tempfile
import uuid
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple

from tests.retrograd.terminal import Terminal, on_screen, read

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs/cli-session.txt"
QUOTAS = {"RETROGRAD_QUOTA_STORED_BYTES": "3000000"}

JOB = """\
{
  "name": "small",
  "problem": {
    "kind": "classifier",
    "dataset": {"name": "digits", "split": {"train": 200, "valid": 100, "tset": 100}},
    "model": {"kind": "mlp", "hidden": [20]}
  },
  "training": {"num_stepz": 20, "batch_size": 500},
  "hyperparameters": {"step_size": {"learn": true, "initial": -0.3}}
}
"""
_DATA = "import numpy as np; np.savez('noise.npz', images=np.random.default_rng(0).random((600, 32, 32)), "
_DATA += "labels=np.arange(600) % 10)"


class Step(NamedTuple):
    """A command, or, without a $, what is said before some."""

    command: str
    answer: str = ""  # what is typed when it asks
    works: bool = False  # it needs a worker, and not the API alone


STEPS = [
    Step("retrograd submit --preset digits-schedules -s meta.num_iterations=10", works=True),
    Step("retrograd watch", works=True),
    Step("retrograd ls", works=True),
    Step("retrograd show", works=True),
    Step("retrograd logs | tail -n 3", works=True),
    Step("# Take away what was learned"),
    Step("retrograd download -o learned.json", works=True),
    Step("retrograd curves -o curves.csv && cut -d, -f1-3 curves.csv | head -n 3", works=True),
    Step("retrograd figures -o figures", works=True),
    Step("retrograd export-schedule --as optax -o learned", works=True),
    Step("retrograd download --format npz --json", works=True),
    Step("# A job of one's own, with mistakes"),
    Step("cat job.json"),
    Step("retrograd submit job.json"),
    Step("sed -i 's/num_stepz/num_steps/; s/tset/test/; s/-0.3/0.3/' job.json"),
    Step("retrograd submit job.json -s meta.num_iterations=0"),
    Step("retrograd submit job.json -s meta.num_iterations=0 -s training.batch_size=50 --json"),
    Step("echo '{\"name\": small}' | retrograd submit -"),
    Step("retrograd submit --preset digit-schedules"),
    Step("# Not there, not allowed, not now"),
    Step("retrograd show 3f1c"),
    Step("RETROGRAD_API_KEY=rg_mine retrograd ls"),
    Step("RETROGRAD_URL=http://127.0.0.1:9 retrograd ls"),
    Step("retrograd resume latest", works=True),
    Step("retrograd datasets upload noise.npz --name noise", works=True),  # beyond the quota
    Step("# A job that fails"),
    Step("retrograd submit --preset digits-schedules -s hyperparameters.step_size.initial=1e9 --watch", works=True),
    Step("retrograd delete latest", answer="y\n", works=True),
]  # fmt: skip


@contextmanager
def service(folder, environment):
    """`retrograd up`: its terminal, and what it said. Ended as by Ctrl-C."""
    process, ours = Terminal(folder, environment | QUOTAS).start("exec retrograd up --port 0")
    try:
        yield on_screen(read(ours, until="results are kept."))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait()
        os.close(ours)


def environment(**variables):
    """In which `retrograd` is the one of this source, and a terminal is as wide as it says itself."""
    bare = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RETROGRAD_", "COLUMNS", "LINES"))
    }
    path = f"{Path(sys.executable).parent}:{bare['PATH']}"
    return bare | {"PATH": path, "PYTHONPATH": str(ROOT)} | variables


def prepare(folder):
    """The files that the commands are about."""
    (folder / "job.json").write_text(JOB)
    _, status = Terminal(folder, environment()).run(f'python -c "{_DATA}"')
    assert status == 0


def play(steps, folder, variables):
    """Each step, as it stands in the file: the command, what it left on the screen, its status unless 0."""
    for step in steps:
        if step.command.startswith("#"):
            yield step.command
            continue
        said, status = Terminal(folder, variables).run(step.command, step.answer)
        told = [f"$ {step.command}", *([said] if said else []), *([f"[exit status {status}]"] if status else [])]
        yield "\n".join(told)


def masked(text, folder):
    """What differs from run to run, made the same: ids, times, ports, folders."""
    numbers = count(1)
    ids = {}
    for found in re.findall(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", text):
        ids[found] = ids.get(found) or str(uuid.uuid5(uuid.NAMESPACE_URL, f"job {next(numbers)}"))
    for found, stable in ids.items():
        text = text.replace(found, stable).replace(found[:8], stable[:8])
    text = re.sub(r"\d{4}-\d\d-\d\d([ T])\d\d:\d\d:\d\d", r"2026-01-01\g<1>12:00:00", text)
    text = re.sub(r"http://127\.0\.0\.1:\d{4,5}", "http://127.0.0.1:8000", text)
    return text.replace(f"{folder}/", "").replace(str(folder), ".")


def stable(text):
    """What two recordings have in common: all but numbers, and how wide columns are."""
    text = re.sub(r"\d[\d,]*(\.\d+)?(e[-+]?\d+)?", "0", text)
    return [" ".join(re.sub(r"[━╸╺]+", "━", line).split()) for line in text.splitlines()]


def record():
    """The whole session."""
    with tempfile.TemporaryDirectory(prefix="retrograd-") as name:
        folder = Path(name)
        prepare(folder)
        with service(folder, environment()) as announced:
            told = ["# In one terminal", f"$ retrograd up\n{announced}", "# In another, in the same folder"]
            told += play(STEPS, folder, environment())
        return masked("\n\n".join(told), folder) + "\n"


if __name__ == "__main__":
    FILE.write_text(record())
