"""Thousands of programs that are almost right: each is refused or sound, and nothing that looks at them is harmed."""

import collections
import os
import subprocess
import sys

import pytest

from core.programs import archive
from core.programs.check import answer_for
from tests.programs import recurrent
from tests.programs.fuzzing import mutated

CASES = 3000


def verdicts(path, count):
    """(number, kind, verdict) of every mutation; the process that dies of one is begun anew after it."""
    found, first = [], 0
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"}
    while first < count:
        done = subprocess.run(
            [sys.executable, "-m", "tests.programs.fuzzing", str(path), str(first), str(count)],
            capture_output=True,
            env=environment,
            check=False,
            text=True,
            errors="replace",
        )
        lines = [line.split("\t") for line in done.stdout.splitlines() if line.count("\t") >= 2]
        assert lines, done.stderr[-2000:]
        found += [(int(number), kind, said or f"died: {done.returncode}") for number, kind, said in lines]
        first = found[-1][0] + 1
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_mutated_programs_are_refused_or_sound(tmp_path, capsys):
    exported = recurrent.small()
    path = tmp_path / "program.zip"
    path.write_bytes(exported)
    found = verdicts(path, CASES)
    assert len(found) == CASES
    tally = collections.Counter((kind, said.split(":")[0]) for _, kind, said in found)
    with capsys.disabled():
        print(f"\n{CASES} mutations of a program:")
        for (kind, said), number in sorted(tally.items()):
            print(f"  {kind}: {number} {said}")
    wrong = [one for one in found if not one[2].startswith(("refused", "accepted", "died"))]
    assert not wrong
    deaths = [number for number, _, said in found if said.startswith("died")]
    for number in deaths[:5]:  # contained where it matters
        path.write_bytes(mutated(exported, number)[1])
        answer = answer_for({"path": str(path), "seconds": 60.0, "memory_bytes": 3 << 30})
        assert answer["error"]["code"] == "invalid_program"
    accepted = [number for number, kind, said in found if said == "accepted" and "bytes" in kind]
    for number in accepted[:5]:  # whose numbers may be others now: run, or refused
        path.write_bytes(mutated(exported, number)[1])
        answer = answer_for({"path": str(path), "seconds": 60.0, "memory_bytes": 3 << 30})
        assert answer["ok"] or answer["error"]["code"] == "invalid_program"


def test_the_first_mutations_in_this_process(exported):
    """A few of them always, and that they are what they are said to be."""
    from tests.programs.fuzzing import KINDS, verdict

    made = [mutated(exported, number) for number in range(24) if "module" not in KINDS[number % len(KINDS)]]
    assert all(mutated(exported, number)[1] == mutated(exported, number)[1] for number in range(6))
    assert {verdict(content) for _, content in made} <= {"refused", "accepted"}
    assert verdict(exported) == "accepted"
    assert archive.read(exported).sha256
