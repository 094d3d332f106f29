"""Numbers, times and sizes as people read them. Pure; a dash stands for what is not known."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Final

UNKNOWN: Final = "–"

_TIED: Final = "\N{NO-BREAK SPACE}"
"""Between a number and its unit."""

_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_YEAR: Final = 365 * _DAY


def number(value: float | None, digits: int = 0) -> str:
    """`value` with separators, and so many decimals."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def figure(value: float | None) -> str:
    """`value` with three or four significant digits: speeds and losses of any size."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value == 0:
        return "0"
    before_point = math.floor(math.log10(abs(value))) + 1
    return f"{value:,.{min(6, max(0, 3 - before_point))}f}" if before_point > 0 else f"{value:.4f}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share of 1; never rounded up to the whole."""
    if share is None or not math.isfinite(share):
        return UNKNOWN
    scale = 10.0**digits
    return f"{math.floor(share * 100 * scale + 1e-9) / scale:.{digits}f} %"


def size(num_bytes: float | None) -> str:
    """Bytes, in decimal units."""
    if num_bytes is None:
        return UNKNOWN
    value = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB" if value < 999.5 else f"{value:,.0f} TB"


def duration(seconds: float | None) -> str:
    """The two largest units of a time."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    whole = max(0, round(seconds))
    if whole < _MINUTE:
        return f"{whole}{_TIED}s"
    for unit, length, smaller, smaller_length in (
        ("y", _YEAR, "d", _DAY),
        ("d", _DAY, "h", _HOUR),
        ("h", _HOUR, "min", _MINUTE),
        ("min", _MINUTE, "s", 1),
    ):
        if whole >= length:
            rest = whole % length // smaller_length
            larger = f"{whole // length:,}{_TIED}{unit}"
            return f"{larger} {rest}{_TIED}{smaller}" if rest else larger
    raise AssertionError(whole)


def moment(ms: int | None) -> str:
    """A time since 1970, in UTC."""
    return UNKNOWN if ms is None else f"{datetime.fromtimestamp(ms / 1000, UTC):%-d %b %Y, %H:%M} UTC"


def day(ms: int | None) -> str:
    """Its day."""
    return UNKNOWN if ms is None else f"{datetime.fromtimestamp(ms / 1000, UTC):%-d %b %Y}"


def machine_time(ms: int) -> str:
    """For the attribute of a <time>."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number and its noun."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
