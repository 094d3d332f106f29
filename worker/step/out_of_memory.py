"""Telling that memory ran out from other failures, on whatever device; accelerate knows the messages."""

from __future__ import annotations

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device, or the host, had no memory left for a tensor."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or should_reduce_batch_size(error)


def give_back_memory() -> None:
    """Free what failed attempts left behind: cycles on the host, cached blocks on the device."""
    clear_device_cache(garbage_collection=True)
