"""Where optimizer state lies: on the device, or in the host's memory, from where it visits the device slice by slice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor


class StatePlace(Protocol):
    """Makes state and brings it to where it is used."""

    def zeros(self, num_elements: int, dtype: torch.dtype) -> Tensor:
        """New state, (num_elements,)."""

    def at_hand(self, *parts: Tensor) -> AbstractContextManager[list[Tensor]]:
        """Within, `parts` on the device; what is done to them is kept."""


class OnDevice:
    """State beside the weights."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def zeros(self, num_elements: int, dtype: torch.dtype) -> Tensor:
        """See `StatePlace.zeros`."""
        return torch.zeros(num_elements, dtype=dtype, device=self._device)

    @contextmanager
    def at_hand(self, *parts: Tensor) -> Iterator[list[Tensor]]:
        """See `StatePlace.at_hand`: there already."""
        yield list(parts)


class OnHost:
    """State in host memory, pinned where the device is a GPU, so that the host does not wait for copies."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pin = device.type == "cuda"

    def zeros(self, num_elements: int, dtype: torch.dtype) -> Tensor:
        """See `StatePlace.zeros`."""
        return torch.zeros(num_elements, dtype=dtype, pin_memory=self._pin)

    @contextmanager
    def at_hand(self, *parts: Tensor) -> Iterator[list[Tensor]]:
        """See `StatePlace.at_hand`: copied there and back, in the order of the device's stream."""
        visitors = [torch.empty_like(part, device=self._device).copy_(part, non_blocking=True) for part in parts]
        yield visitors
        for part, visitor in zip(parts, visitors, strict=True):
            part.copy_(visitor, non_blocking=True)
