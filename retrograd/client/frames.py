"""pandas, where it is installed."""

from __future__ import annotations

from typing import Any


def pandas() -> Any:
    """The module.

    Raises:
        ImportError: it is not installed; names the remedy.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_pandas needs pandas, which is not installed: pip install pandas") from error
    return pandas
