"""The times t at which held-out loss is taken, without anything that loads torch."""

from __future__ import annotations

from typing import Final

EVALUATED_TIMES: Final = (0.1, 0.3, 0.5, 0.7, 0.9)
"""0 is the picture, 1 is noise."""
