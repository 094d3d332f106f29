"""Rest when a card draws too much on average (`when.gpu_max_watts`).

A card's own limit (`nvidia-smi -pl`, as root) is smoother: this one stops the work and starts it again.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from diffusion_at_home.clock import Clock
from worker.conditions.cards import CardReading, CardSensor, cards_used
from worker.conditions.hindrance import Hindrance, IdleReason
from worker.settings import WorkerSettings

_AVERAGED_SECONDS: Final = 30.0
_SAMPLE_SECONDS: Final = 2.0
_AGAIN_SHARE: Final = 0.9
"""Of the most, to which the average must come down before it works again."""


class Power:
    """See `Rule`."""

    def __init__(self, cards: CardSensor, clock: Clock) -> None:
        self._cards = cards
        self._clock = clock
        self._averages: dict[int, _Average] = {}
        self._resting: set[int] = set()

    def hindrance(self, settings: WorkerSettings) -> Hindrance | None:
        """See `Rule.hindrance`."""
        most = settings.when.gpu_max_watts
        if most == 0:
            return None
        resting = [card for card in cards_used(self._cards(), settings) if self._rests(card, most)]
        if not resting:
            return None
        watts = self._averages[resting[0].index].watts
        return Hindrance(
            IdleReason.POWER,
            f"GPU {resting[0].index} draws {watts:.0f} W on average, see when.gpu_max_watts: it works again at "
            f"{most * _AGAIN_SHARE:.0f} W",
            None,
        )

    def _rests(self, card: CardReading, most: float) -> bool:
        if card.watts is None:
            return False
        average = self._averages.setdefault(card.index, _Average())
        average.add(self._clock.now(), card.watts)
        was_resting = card.index in self._resting
        rests = average.watts > (most * _AGAIN_SHARE if was_resting else most) and (was_resting or average.is_full)
        (self._resting.add if rests else self._resting.discard)(card.index)
        return rests


class _Average:
    """The mean of what a card drew lately."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque()

    def add(self, now: float, watts: float) -> None:
        """Take a sample, unless the last one is recent; what is too old is forgotten."""
        if not self._samples or now - self._samples[-1][0] >= _SAMPLE_SECONDS:
            self._samples.append((now, watts))
        while now - self._samples[0][0] > _AVERAGED_SECONDS:
            self._samples.popleft()

    @property
    def watts(self) -> float:
        """The mean."""
        return sum(watts for _, watts in self._samples) / len(self._samples)

    @property
    def is_full(self) -> bool:
        """Whether it tells of the whole time: a peak at the beginning is none."""
        return self._samples[-1][0] - self._samples[0][0] >= _AVERAGED_SECONDS - _SAMPLE_SECONDS
