"""A vector of all weights that the daemon and its ranks share, without a copy for each.

It lies in an unnamed file of memory: unlike /dev/shm, which containers keep small, that is bounded by the machine's memory alone,
and it is gone with the last process that holds it.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor


class SharedVector:
    """fp32 (n,), in the daemon."""

    def __init__(self, num_elements: int) -> None:
        self._num_elements = num_elements
        self._file = os.memfd_create("diffusion-at-home")
        os.ftruncate(self._file, 4 * num_elements)
        self.tensor = open_vector(self.path, num_elements)

    @property
    def path(self) -> str:
        """Where this user's processes may open it."""
        return f"/proc/{os.getpid()}/fd/{self._file}"

    def close(self) -> None:
        """Let go of it; `tensor` stays usable as long as it is referred to."""
        os.close(self._file)


def open_vector(path: str, num_elements: int) -> Tensor:
    """The vector at `path`, in another process: what one writes, all see."""
    return torch.from_file(path, shared=True, size=num_elements, dtype=torch.float32)
