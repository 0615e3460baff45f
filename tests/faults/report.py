"""One line a fault at the end of a run. A pytest plugin: tests anywhere say what they inject by the marker `fault`.

    @pytest.mark.fault(injected="kill -9 of the janitor", checked="every wake-up is sent", repetitions=20)

The fixture `noted` adds to the line what a test has measured.
"""

from __future__ import annotations

import pytest

_PROPERTY = "fault"
_NOTE = "fault note"
_NEEDED = {"injected", "checked"}


def pytest_collection_modifyitems(items):
    for item in items:
        if marker := item.get_closest_marker("fault"):
            if marker.args or not _NEEDED <= set(marker.kwargs) <= _NEEDED | {"repetitions"}:
                raise pytest.UsageError(f"{item.nodeid}: fault(injected=…, checked=…, repetitions=1)")
            # properties travel with the report from a worker of xdist to whoever prints
            item.user_properties.append((_PROPERTY, {"repetitions": 1, **marker.kwargs}))


@pytest.fixture
def noted(request):
    """Call with words to add to the fault's line."""
    return lambda words: request.node.user_properties.append((_NOTE, words))


def pytest_terminal_summary(terminalreporter):
    if lines := lines_of(
        report
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport)
    ):
        terminalreporter.section("faults that must lose nothing")
        terminalreporter.write("\n".join(lines) + "\n")


def lines_of(reports):
    """A line for each fault: a test that failed before or after its call has failed."""
    found = {}
    for report in reports:
        properties = dict(report.user_properties)
        if _PROPERTY not in properties:
            continue
        before = found.get(report.nodeid)
        if before is None or report.outcome == "failed" or (before[0] != "failed" and report.when == "call"):
            notes = [value for name, value in report.user_properties if name == _NOTE]
            found[report.nodeid] = report.outcome, properties[_PROPERTY], notes, report.nodeid
    return [_line(*one) for _, one in sorted(found.items())]


def _line(outcome, fault, notes, nodeid):
    variant = nodeid.partition("[")[2].rstrip("]")
    injected = f"{fault['injected']} ({variant})" if variant else fault["injected"]
    measured = f" [{'; '.join(notes)}]" if notes else ""
    return f"{outcome:7} {fault['repetitions']:>4}×  {injected}: {fault['checked']}{measured}"
