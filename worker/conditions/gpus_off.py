"""Nothing to work with: every card is switched off (`limits.gpus_off`)."""

from __future__ import annotations

from worker.conditions.cards import CardSensor, cards_used
from worker.conditions.hindrance import Hindrance, IdleReason
from worker.settings import Device, WorkerSettings


class GpusOff:
    """See `Rule`. Of several cards, those that are on go on; which, is decided when work starts (`worker/device.py`)."""

    def __init__(self, cards: CardSensor) -> None:
        self._cards = cards

    def hindrance(self, settings: WorkerSettings) -> Hindrance | None:
        """See `Rule.hindrance`."""
        if settings.device is Device.CPU or not settings.limits.gpus_off:
            return None
        cards = self._cards()
        if not cards or cards_used(cards, settings):
            return None
        return Hindrance(
            IdleReason.GPU_OFF,
            "limits.gpus_off switches off every GPU of this machine: it works again with one that is on",
            None,
        )
