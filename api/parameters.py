"""How parameters are described."""

from __future__ import annotations

from pydantic.json_schema import SkipJsonSchema

Absent = SkipJsonSchema[None]
"""For `str | Absent`: what is left out is None in Python, but nobody can send a null in a query or a header."""
