"""docs/cli-session.txt is what the commands say today."""

import difflib
import re

import pytest

from retrograd.cli.exits import Exit
from tests.retrograd.session import FILE, JOB, STEPS, environment, masked, play, prepare, record, stable
from tests.retrograd.terminal import Screen


def assert_same(recorded, now):
    differences = list(difflib.unified_diff(stable(recorded), stable(now), "recorded", "now", lineterm=""))
    assert not differences, "run python -m tests.retrograd.session\n" + "\n".join(differences)


def recorded(step):
    """What stands in the file under a command."""
    text = FILE.read_text()
    start = text.index(f"$ {step.command}\n")
    return re.split(r"\n\n(?=\$ |# )|\n$", text[start:], maxsplit=1)[0]


def test_commands_that_need_no_worker_say_what_was_recorded(client, url, key, tmp_path):
    prepare(tmp_path)
    steps = [step for step in STEPS if not step.works and not step.command.startswith("#")]
    client.post("/v1/jobs", params={"preset": "digits-schedules"})  # so that `show 3f1c` has jobs to look among
    variables = environment(RETROGRAD_URL=url, RETROGRAD_API_KEY=key)
    for step, now in zip(steps, play(steps, tmp_path, variables), strict=True):
        assert_same(recorded(step), masked(now, tmp_path).strip())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_whole_session_is_what_was_recorded():
    assert_same(FILE.read_text(), record())


def test_it_names_every_kind_of_failure_and_nothing_of_the_machine():
    text = FILE.read_text()
    statuses = {int(found) for found in re.findall(r"^\[exit status (\d+)\]$", text, re.MULTILINE)}
    assert statuses == {*range(1, 7)}
    assert statuses < {*Exit}
    assert not re.search(r"/(tmp|root|home|work|usr)/", text)
    assert {f"$ {step.command}" for step in STEPS if not step.command.startswith("#")} <= set(text.splitlines())


def test_a_change_would_be_seen():
    text = FILE.read_text()
    assert stable(text) == stable(text.replace("0.1", "0.2"))
    assert stable(text) != stable(text.replace("did you mean", "do you mean"))
    assert stable(text) != stable(text.replace("[exit status 2]", ""))
    assert '"num_stepz"' in JOB


def test_of_a_bar_that_moves_the_last_state_stays():
    screen = Screen()
    screen.write(
        "\x1b[?25lrunning ━ 1/10\r\x1b[2Krunning ━━ 2/10\n\x1b[1A\r\x1b[2K\x1b[32mdone\x1b[0m ━━━ 10/10\n\x1b[?25hnext"
    )
    assert str(screen) == "done ━━━ 10/10\nnext"
