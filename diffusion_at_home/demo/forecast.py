"""Says once, after the first rounds, how long the training will take."""

from __future__ import annotations

from dataclasses import dataclass

_MEASURED_SECONDS = 30.0
"""Of training; the first round is left out, for in it paces are not known and processes still start."""


@dataclass(slots=True)
class Forecast:
    """Images by time, from the first round's end on."""

    _images: int = 0
    _since: float | None = None
    _said: bool = False

    def sentence(self, images: int, total_images: int, now: float) -> str | None:
        """What to say when `images` are accepted at `now` (seconds); None for nothing."""
        if self._said or images == 0:
            return None
        if self._since is None:
            self._images, self._since = images, now
        if now - self._since < _MEASURED_SECONDS or images == self._images:
            return None
        self._said = True
        minutes = (total_images - images) * (now - self._since) / (images - self._images) / 60
        return f"about {minutes:.0f} minutes to go, as the first rounds went" if minutes >= 1 else None
