"""The page of benchmarks says what was measured, and nothing else."""

from benchmarks.report import PAGE, page, results


def test_the_page_is_what_the_results_say():
    assert PAGE.read_text() == page(results()), "run `python -m benchmarks.report`"


def test_a_missed_target_is_called_missed():
    found = results()
    found["engines"]["targets"][0] |= {"measured": 99.0}
    assert "99.000 | ≤ 3.4 | ≤ 3 | **missed**" in page(found)
