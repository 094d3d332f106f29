"""How long, as people write it: 90m, 2h, 1d12h."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

from diffusion_at_home.errors import ConfigError

LONGEST: Final = timedelta(days=366)
"""A longer pause is one without an end."""

_UNITS: Final = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_PART: Final = r"([0-9]{1,7})([dhms])"


def parse_duration(text: str, name: str) -> timedelta:
    """What `text` says. Raises `ConfigError`, which calls it `name`, unless that is more than nothing and at most a year."""
    plain = text.lower().replace(" ", "")
    if re.fullmatch(f"(?:{_PART})+", plain):
        found = sum(
            (timedelta(**{_UNITS[unit]: int(number)}) for number, unit in re.findall(_PART, plain)), timedelta()
        )
        if timedelta() < found <= LONGEST:
            return found
    raise ConfigError(f"{name} {text[:40]!r} must be a time up to a year, as in 90m, 2h or 1d12h")
