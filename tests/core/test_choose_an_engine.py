"""The how-to's program runs, and the table that it prints is one of engines."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "choose-an-engine.md"


@pytest.mark.slow
def test_the_program_of_the_how_to_runs(run_python):
    program = re.search(r"<!-- test: plan -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL).group(1)
    *rows, chosen = run_python(program).splitlines()
    names = [row.split()[0] for row in rows]
    assert {"reversible", "hybrid", "unrolled", "checkpointed", "recursive", "truncated", "implicit"} == set(names)
    fits = [row.split()[4] == "True" for row in rows]
    assert fits == sorted(fits, reverse=True)
    assert chosen in names
