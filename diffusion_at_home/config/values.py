"""The kinds of values that settings have."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Positive = Annotated[int, Field(gt=0, strict=True)]
Layers = Annotated[int, Field(gt=0, le=1024, strict=True)]
"""Blocks that are built one by one: a config may come from a run that nobody trusts."""
Size = Annotated[int, Field(gt=0, le=2**20, strict=True)]
"""Of one axis of a tensor: more than any model has, and so little that the size of no weight overflows."""
Count = Annotated[int, Field(ge=0, strict=True)]
Port = Annotated[int, Field(ge=0, le=65535, strict=True)]
Seconds = Annotated[float, Field(gt=0, strict=True)]
Fraction = Annotated[float, Field(ge=0, le=1, strict=True)]
Rate = Annotated[float, Field(gt=0, strict=True)]
Amount = Annotated[float, Field(ge=0, strict=True)]
Decay = Annotated[float, Field(ge=0, lt=1, strict=True)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
