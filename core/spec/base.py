"""What all parts of a specification share: strict numbers, no unknown fields."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Strict

Int = Annotated[int, Strict()]  # neither "100" nor true nor 1.0
Float = Annotated[float, Strict()]
Bool = Annotated[bool, Strict()]


class Part(BaseModel):
    """Unknown fields are mistakes, and numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
