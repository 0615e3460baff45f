"""The how-to page on the client: its blocks run, one after the other, where `retrograd up` does."""

import re
from pathlib import Path

import pytest

from retrograd.home import Home
from retrograd.local.stack import Stack

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "use-the-python-client.md"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_the_blocks_run(tmp_path, capsys):
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    with Stack(Home(tmp_path / ".retrograd"), port=0):
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), names)  # the page's own asserts are tests
    assert len(blocks) == 6
    assert {"learned.npz", "losses.svg", "schedules.svg"} <= {path.name for path in tmp_path.iterdir()}
    assert names["frame"].shape == (names["schedule"].size, 3)
    assert "layer_1.weights" in capsys.readouterr().out


def test_every_method_it_names_exists_and_every_method_is_named():
    from tests.retrograd.client.test_calls import TWINS, public

    for name, (one, _) in TWINS.items():
        missing = [method for method in public(one) if f"`{method}" not in PAGE.read_text()]
        assert not missing, (name, missing)
