"""What several answers have. Numbers that are not finite are shown as null, as JSON has no word for them."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator

ID = "0198c0de-0000-7000-8000-000000000000"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]
