"""How jobs, and what they learned, are shown: in notebooks, and by a bar. All read from the real API."""

import re
import sys
from uuid import UUID
from xml.etree import ElementTree

import numpy as np
import pytest

from core.store import leases
from retrograd.client import html
from tests.builders import SMALL, claim, document

HOSTILE = '<img src=x onerror="alert(1)">'


def text_of(page):
    """What a reader sees; fails unless it is well-formed."""
    return " ".join("".join(ElementTree.fromstring(page).itertext()).split())


def test_notebooks_show_a_job(learned):
    shown = text_of(learned._repr_html_())
    for words in (
        "small",
        "succeeded",
        learned.id,
        "2 of 4",
        "outer loss1 → 1",
        "test loss4 → 4",
        "exact, 0 bits differ",
    ):
        assert words in shown, words
    assert "valid loss" not in shown  # is none


def test_notebooks_show_why_a_job_failed(waiting, sessions):
    job = waiting.jobs.create(SMALL)
    lease = claim(sessions, UUID(job.id))
    with sessions.begin() as session:
        leases.fail(session, lease, "diverged", "it <did>", {})
    assert "diverged it <did>" in text_of(job.refresh()._repr_html_())


def test_notebooks_show_lists_of_jobs(waiting, learned):
    waiting.jobs.create(document({"name": HOSTILE}))
    page = waiting.jobs.list()._repr_html_()
    assert [learned.id[:8] in text_of(page), HOSTILE in text_of(page), "<img" in page] == [True, True, False]


def test_notebooks_show_hyperparameters_with_their_schedules(learned):
    page = learned.hyperparameters()._repr_html_()
    shown = text_of(page)
    for words in ("step_size10 × 2 (step, group)weight per velocity", "of iteration 1", "momentumone", "exact"):
        assert words in shown, words
    assert page.count("<svg") == 1
    assert page.count("<polyline") == 2  # a line for each group


def test_what_users_write_is_text(learned):
    for markup in (HOSTILE, "</td></table>", "&amp;", "{}", "'\""):
        page = html.job(learned.document | {"name": markup, "error": {"code": markup, "message": markup}})
        assert "".join(ElementTree.fromstring(page).itertext()).count(markup) == 3
        assert not re.search(r"<(?!/?(div|strong|span|table|tbody|tr|td|code)\b)", page)


def test_numbers_are_text_too(learned):
    progress = {"meta_iteration": HOSTILE, "of": HOSTILE}
    certificate = {"exact": True, "mismatched_bits": HOSTILE}
    page = html.job(learned.document | {"progress": progress, "certificate": certificate})
    assert text_of(page).count(HOSTILE) == 3
    assert "<img" not in page


def test_no_colour_is_set_but_of_states_and_these_read_on_white_and_on_black():
    def luminance(colour):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot((0.2126, 0.7152, 0.0722), linear))

    for colour in html._STATES.values():
        contrasts = [1.05 / (luminance(colour) + 0.05), (luminance(colour) + 0.05) / 0.05]
        assert min(contrasts) >= 3, (colour, contrasts)


@pytest.mark.parametrize("steps", [1, 2, 80, 5000])
def test_sparklines_have_as_many_points_as_there_is_room_for(steps):
    schedule = np.linspace(0, 1, steps)
    drawn = ElementTree.fromstring(html.sparkline(schedule))
    points = [tuple(map(float, point.split(","))) for point in drawn[0].get("points").split()]
    assert len(points) == min(steps, 80)
    assert all(0 <= x <= 160 and 0 <= y <= 28 for x, y in points)
    assert points == sorted(points, key=lambda point: (point[0], -point[1]))  # rises, as values do


def test_a_sparkline_of_a_constant_or_of_nothing():
    assert "nan" not in html.sparkline(np.ones(5))
    assert html.sparkline(np.full(5, np.nan)) == ""
    assert html.sparkline(np.array([1.0, np.inf, 2.0])).count(",") == 2


def test_a_bar_shows_how_far_it_is_where_it_is_asked_for(learned, capsys):
    learned.wait(progress=True)
    drawn = capsys.readouterr().err
    assert "succeeded" in drawn
    assert "2/4" in drawn
    assert "best 3" in drawn
    learned.wait(progress=False)
    learned.wait()  # nobody looks on
    assert capsys.readouterr().err == ""


def test_a_bar_is_drawn_unasked_where_somebody_looks_on(learned, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    learned.wait()
    assert "2/4" in capsys.readouterr().err


def test_what_is_called_after_each_poll_may_end_the_wait(learned):
    def stop(job):
        raise RuntimeError(job.state)

    with pytest.raises(RuntimeError, match="succeeded"):
        learned.wait(progress=stop)
