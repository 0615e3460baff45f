"""The costliest cases of tests, one a line in slow.txt, are slow ones: a pytest plugin.

Marks say of whole tests that they are slow; the list says it of cases among many, as measured. Make it anew from

    pytest -n 2 --dist loadfile -m "not slow" --durations=0 --durations-min=0.3

so that `make test` comes under 15 minutes on two cores, leaving the cheapest case of every test where it can be spared.
"""

from pathlib import Path

import pytest

LIST = Path(__file__).with_name("slow.txt")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config, items):
    listed = set(LIST.read_text().splitlines())
    for item in items:
        if item.nodeid in listed:
            item.add_marker(pytest.mark.slow)
    everything = config.args == config.getini("testpaths") and not config.option.keyword
    if everything and (gone := listed - {item.nodeid for item in items}):
        raise pytest.UsageError(
            f"{LIST.name} names tests that are not there; take them out:\n" + "\n".join(sorted(gone))
        )
