"""Where optimizer state lies: on the device, or in the host's memory, from where it visits the device slice by slice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Protocol

import torch
from torch import Tensor

_SLAB_BYTES: Final = 256 * 2**20
"""Pinned at once: torch rounds each pinned allocation up to a power of two."""

_ALIGNMENT: Final = 64


class StatePlace(Protocol):
    """Makes state and brings it to where it is used."""

    def zeros(self, num_elements: int, dtype: torch.dtype) -> Tensor:
        """New state, (num_elements,)."""

    def at_hand(self, parts: list[Tensor]) -> AbstractContextManager[list[Tensor]]:
        """Within, `parts` on the device; what is done to them is kept."""

    def begin_lease(self) -> None:
        """New state follows: forget the order in which the old one was visited."""

    def begin_step(self) -> None:
        """A step's updates come next, most likely in the order of the last step's."""


class OnDevice:
    """State beside the weights."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def zeros(self, num_elements: int, dtype: torch.dtype) -> Tensor:
        """See `StatePlace.zeros`."""
        return torch.zeros(num_elements, dtype=dtype, device=self._device)

    @contextmanager
    def at_hand(self, parts: list[Tensor]) -> Iterator[list[Tensor]]:
        """See `StatePlace.at_hand`: there already."""
        yield parts

    def begin_lease(self) -> None:
        """See `StatePlace.begin_lease`."""

    def begin_step(self) -> None:
        """See `StatePlace.begin_step`."""


class OnHost:
    """State in host memory; on a GPU it is pinned, and copied on a stream of its own beside the arithmetic.

    All copies queue on one stream, so a slice is never fetched before its last update was written back. While one slice
    is worked on, the next one of the last step's order is on its way.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pinned = _PinnedSlabs() if device.type == "cuda" else None
        self._copies: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it so
        self._order: list[list[Tensor]] = []  # of the step under way
        self._expected: list[list[Tensor]] = []  # of the step before
        self._ahead: tuple[list[Tensor], list[Tensor]] | None = None  # parts and their visitors

    def zeros(self, num_elements: int, dtype: torch.dtype) -> Tensor:
        """See `StatePlace.zeros`."""
        if self._pinned is None:
            return torch.zeros(num_elements, dtype=dtype)
        return self._pinned.take(num_elements, dtype).zero_()

    def begin_lease(self) -> None:
        """See `StatePlace.begin_lease`."""
        self._expected, self._order, self._ahead = [], [], None

    def begin_step(self) -> None:
        """See `StatePlace.begin_step`."""
        self._expected, self._order, self._ahead = self._order, [], None

    @contextmanager
    def at_hand(self, parts: list[Tensor]) -> Iterator[list[Tensor]]:
        """See `StatePlace.at_hand`: copied there and back."""
        if self._copies is None:
            visitors = [torch.empty_like(part, device=self._device).copy_(part) for part in parts]
            yield visitors
            for part, visitor in zip(parts, visitors, strict=True):
                part.copy_(visitor)
            return
        visitors = self._arrived(parts)
        working = torch.cuda.current_stream(self._device)
        working.wait_stream(self._copies)
        self._look_ahead(parts)
        yield visitors
        self._copies.wait_stream(working)
        with torch.cuda.stream(self._copies):
            for part, visitor in zip(parts, visitors, strict=True):
                part.copy_(visitor, non_blocking=True)
                visitor.record_stream(self._copies)

    def _arrived(self, parts: list[Tensor]) -> list[Tensor]:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and _same(ahead[0], parts):
            return ahead[1]
        return self._fetch(parts)

    def _look_ahead(self, parts: list[Tensor]) -> None:
        self._order.append(parts)
        following = len(self._order)
        # Only while this step follows the last one's order, which it does unless a parameter had no gradient.
        if following < len(self._expected) and _same(self._expected[following - 1], parts):
            self._ahead = (self._expected[following], self._fetch(self._expected[following]))

    def _fetch(self, parts: list[Tensor]) -> list[Tensor]:
        assert self._copies is not None
        working = torch.cuda.current_stream(self._device)
        # Allocated for the stream that works with them; its memory may still be in use there until now.
        visitors = [torch.empty_like(part, device=self._device) for part in parts]
        self._copies.wait_stream(working)
        with torch.cuda.stream(self._copies):
            for part, visitor in zip(parts, visitors, strict=True):
                visitor.copy_(part, non_blocking=True)
                visitor.record_stream(self._copies)
        return visitors


class _PinnedSlabs:
    """Cuts pinned memory for tensors out of large pieces, which live as long as a tensor in them."""

    def __init__(self) -> None:
        self._slab = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def take(self, num_elements: int, dtype: torch.dtype) -> Tensor:
        size = num_elements * dtype.itemsize
        if self._used + size > len(self._slab):
            self._slab, self._used = torch.empty(max(size, _SLAB_BYTES), dtype=torch.uint8, pin_memory=True), 0
        begin, self._used = self._used, self._used + -(-size // _ALIGNMENT) * _ALIGNMENT
        return self._slab[begin : begin + size].view(dtype)


def _same(left: list[Tensor], right: list[Tensor]) -> bool:
    return [part.data_ptr() for part in left] == [part.data_ptr() for part in right]
