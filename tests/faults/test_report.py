"""The report of faults is itself tested: a fault that is not shown, or shown as passed, would be lost work."""

import pytest

pytest_plugins = ["pytester"]

FAULTS = """
import pytest

pytest_plugins = ["tests.faults.report"]

@pytest.mark.fault(injected="a broken wheel", checked="the car stops", repetitions=3)
def test_passes(noted):
    noted("after 2 m")

@pytest.mark.fault(injected="a broken brake", checked="the car stops")
@pytest.mark.parametrize("speed", [1, 2])
def test_fails(speed):
    assert speed < 2

@pytest.fixture
def broken():
    raise ValueError

@pytest.mark.fault(injected="no car", checked="nobody drives")
def test_cannot_start(broken):
    pass

def test_of_something_else():
    pass
"""


def test_each_fault_has_one_line(pytester):
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nmarkers = ["fault: one"]')
    pytester.makepyfile(FAULTS)
    said = pytester.runpytest_inprocess().stdout.str()
    lines = [line.strip() for line in said.partition("faults that must lose nothing")[2].splitlines()[1:6]]
    assert sorted(line for line in lines if "×" in line) == [
        "failed     1×  a broken brake (2): the car stops",
        "failed     1×  no car: nobody drives",
        "passed     1×  a broken brake (1): the car stops",
        "passed     3×  a broken wheel: the car stops [after 2 m]",
    ]


def test_a_fault_that_does_not_say_what_it_checks_is_refused(pytester):
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nmarkers = ["fault: one"]')
    pytester.makepyfile(FAULTS.replace('checked="nobody drives"', "repetitions=2"))
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
