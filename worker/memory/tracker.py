"""Counts the bytes of live tensors by what they hold, and remembers the moment when they were most.

Sees every tensor that an operation returns, real or fake, and its storage's end. Under fake tensors, which have shapes but no
memory, a step of any model is counted on any machine.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from enum import StrEnum
from typing import Any, Final, Self

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

_ATEN: Final = torch.ops.aten
_FLOP_FORMULAS: Final = flop_registry | {
    # torch counts what attention takes on CUDA, and not on the CPU that stands in for it.
    _ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[_ATEN._scaled_dot_product_flash_attention],
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _ATEN._scaled_dot_product_flash_attention_backward
    ],
}


class Holds(StrEnum):
    """What a storage is for."""

    WEIGHTS = "weights"
    """Parameters, buffers, and the remainders of exact weights."""
    GRADIENTS = "gradients"
    OPTIMIZER = "optimizer"
    ACTIVATIONS = "activations"
    """Everything else: what the backward pass needs, and what lives for an operation only."""
    HOST = "host"
    """Not on the device."""


class MemoryTracker(TorchDispatchMode):
    """Within, storages are counted. Bytes are those of the tensors, not of the allocator's blocks."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it so
        self._held: dict[int, Holds] = {}
        self._sizes: dict[int, int] = {}
        self._restore = ExitStack()
        self._ends: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self.now: Counter[Holds] = Counter()
        """Bytes by what they hold."""
        self.peak: Counter[Holds] = Counter()
        """`now` when the device held most."""
        self.most_on_host = 0
        """Most bytes of the host at once."""
        self.flops = 0
        """Floating-point operations of all matrix products and convolutions."""

    def mark(self, tensors: Iterable[Tensor], holds: Holds) -> None:
        """Say what `tensors` hold; those not seen yet count from now on."""
        for tensor in tensors:
            self._count(tensor.untyped_storage(), holds)

    def forget_peak(self) -> None:
        """Measure the peak from here on."""
        self.peak = self.now.copy()

    @property
    def peak_bytes(self) -> int:
        """The most that the device held."""
        return _on_device(self.peak)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and count what it returns."""
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it comes back as operations on the parts that lie here, which are counted
        result = func(*args, **(kwargs or {}))
        count_flops = _FLOP_FORMULAS.get(getattr(func, "overloadpacket", None))
        if count_flops is not None:  # torch's own counter keeps what it counts alive, which would falsify the bytes
            self.flops += count_flops(*args, **(kwargs or {}), out_val=result)
        for item in tree_iter(result):
            if isinstance(item, Tensor) and not isinstance(item, DTensor):
                storage = item.untyped_storage()
                if id(storage) not in self._held:
                    self._count(storage, Holds.ACTIVATIONS)
        return result

    def __enter__(self) -> Self:
        """See the class. What FSDP gathers lives in storages that are emptied and filled again."""
        resize = torch.UntypedStorage.resize_

        def counted_resize(storage: torch.UntypedStorage, size: int) -> None:
            resize(storage, size)
            if id(storage) in self._held:
                self._count(storage, self._held[id(storage)])

        self._restore.callback(setattr, torch.UntypedStorage, "resize_", resize)
        torch.UntypedStorage.resize_ = counted_resize  # type: ignore[assignment]  # no operation that a mode could see
        super().__enter__()  # type: ignore[no-untyped-call]  # torch leaves it so
        return self

    def __exit__(self, *error: object) -> None:
        """See the class."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]  # torch leaves it so
        self._restore.close()

    def _count(self, storage: torch.UntypedStorage, holds: Holds) -> None:
        key, size = id(storage), storage.nbytes()
        before = self._held.get(key)
        if before is None:
            self._ends[key] = weakref.ref(storage, lambda _: self._end(key))
        else:
            self.now[before] -= self._sizes[key]
        self._held[key], self._sizes[key] = holds, size
        self.now[holds] += size
        self.most_on_host = max(self.most_on_host, self.now[Holds.HOST])
        if _on_device(self.now) > _on_device(self.peak):
            self.peak = self.now.copy()

    def _end(self, key: int) -> None:
        self.now[self._held.pop(key)] -= self._sizes.pop(key)
        del self._ends[key]


def _on_device(counted: Counter[Holds]) -> int:
    return counted.total() - counted[Holds.HOST]
