"""Let a card cool that is too hot (`when.gpu_max_celsius`), until it is some degrees below that."""

from __future__ import annotations

from worker.conditions.cards import CardSensor, cards_used
from worker.conditions.hindrance import Hindrance, IdleReason
from worker.settings import WorkerSettings


class Heat:
    """See `Rule`. A card is taken for hot until it was seen to be cool: so a restart forgets nothing."""

    def __init__(self, cards: CardSensor) -> None:
        self._cards = cards
        self._cool: set[int] = set()

    def hindrance(self, settings: WorkerSettings) -> Hindrance | None:
        """See `Rule.hindrance`."""
        most = settings.when.gpu_max_celsius
        if most == 0:
            return None
        again = most - settings.when.gpu_resume_celsius_below
        hot = None
        for card in cards_used(self._cards(), settings):
            if card.celsius is None:
                continue
            if too_hot(card.celsius, most, again, was_hot=card.index not in self._cool):
                self._cool.discard(card.index)
                hot = hot or card
            else:
                self._cool.add(card.index)
        if hot is None:
            return None
        return Hindrance(
            IdleReason.HEAT,
            f"GPU {hot.index} has {hot.celsius:.0f} degrees Celsius, see when.gpu_max_celsius: it works again at {again}",
            None,
        )


def too_hot(celsius: float, most: float, again: float, *, was_hot: bool) -> bool:
    """Whether a card is to rest: from `most` on, and then until it has come down to `again`."""
    return celsius > again if was_hot else celsius >= most
