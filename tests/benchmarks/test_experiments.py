"""Every preset was run, and the page about them says what was measured."""

import re

import pytest

from benchmarks.experiments import results
from benchmarks.experiments_page import PAGE, page, shown
from core import presets

FOUND, TEXT = results(), PAGE.read_text()
_LARGEST_FIGURE_BYTES = 150_000


@pytest.mark.parametrize("preset", presets.names())
def test_every_preset_was_run_as_it_stands(preset):
    assert FOUND[preset]["spec_sha256"] == presets.get(preset).sha256(), (
        f"run `python -m benchmarks.experiments {preset}`"
    )


def test_there_is_no_row_without_a_preset():
    assert set(FOUND) == set(presets.names())


@pytest.mark.parametrize("preset", presets.names())
def test_every_preset_has_a_section_with_what_it_found(preset):
    section = re.search(rf"^## {preset}\n(.*?)(?=^#|\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert section, f"docs/experiments.md says nothing of {preset}"
    assert f"retrograd submit --preset {preset} --watch" in section[1]
    assert f"<!-- written: {preset} -->" in section[1]


def test_the_page_is_what_the_results_say():
    assert page(TEXT, FOUND) == TEXT, "run `python -m benchmarks.experiments_page`"


def test_a_missed_target_is_called_missed():
    found = FOUND | {
        "search-then-descend": FOUND["learning-rate-schedules"] | {"losses": {"initial": LOST, "best": LOST}}
    }
    assert "| `search-then-descend`: training loss | 9.000 | ≤ 0.07 | **missed** |" in page(TEXT, found)


LOST = {"outer": 9.0, "train": 9.0, "valid": 9.0, "test": 9.0, "measures": {}}


def test_the_figures_that_it_shows_are_here_and_small():
    files = shown(TEXT)
    assert len(files) > 20
    for file in files:
        assert 0 < file.stat().st_size < _LARGEST_FIGURE_BYTES, file.name
    assert set(files) == set((PAGE.parent / "experiments").iterdir())


def test_every_certificate_is_exact():
    assert all(
        row["certificate"]["exact"] and row["certificate"]["mismatched_bits"] == 0 for row in FOUND.values()
    )
