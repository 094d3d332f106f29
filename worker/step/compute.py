"""Where a step is computed, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Compute:
    """A device; fp32 weights are computed with in bf16 where `autocast` says so, bf16 weights always as they are."""

    device: torch.device
    autocast: bool

    def precision(self) -> AbstractContextManager[object]:
        """What a forward pass over fp32 weights runs within."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext()


CPU = Compute(torch.device("cpu"), autocast=False)
"""What every machine has."""
