"""A plan: which parts the training step is made of on this machine. The run decides what is computed, the plan only how."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from worker.step.masters import WeightKind


class Offload(StrEnum):
    """What lies in the host's memory instead of the device's."""

    NOTHING = "nothing"
    STATE = "state"
    """Optimizer state and remainders; slices of them visit the device for their update."""
    BLOCKS = "blocks"
    """Weights and gradients too: a block's weights visit for the time it is computed with."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One way to take a training step."""

    weights: WeightKind = WeightKind.FP32
    """How exact values are kept. bf16 parameters are computed with as they are, fp32 ones under the device's precision."""
    checkpointing: bool = False
    """Whether activations are computed again in the backward pass instead of kept."""
    release: bool = False
    """Whether each tensor is updated inside the backward pass; needs inner.clip = "tensor"."""
    offload: Offload = Offload.NOTHING
    micro_batch_images: int = 0
    """Images in one forward pass of a device, whose gradients are accumulated; 0 is its whole share of the batch."""
    devices: int = 1
    """Over how many devices weights, gradients, state and the images of a batch are divided."""

    @property
    def sharded(self) -> bool:
        """Whether weights are gathered block by block, rather than all at hand."""
        return self.devices > 1 or self.offload is Offload.BLOCKS

    def halved(self, batch_images: int) -> StepPlan | None:
        """The same with half as many images in a forward pass; None where that is not possible."""
        share = -(-batch_images // self.devices)
        now = self.micro_batch_images or share
        return None if self.release or now == 1 else replace(self, micro_batch_images=-(-now // 2))

    def __str__(self) -> str:
        """As people read it: `split, recompute, release`."""
        words = {
            f"{self.devices} devices": self.devices > 1,
            "recompute": self.checkpointing,
            "release": self.release,
            f"offload {self.offload.value}": self.offload is not Offload.NOTHING,
            f"{self.micro_batch_images} at a time": self.micro_batch_images > 0,
        }
        return ", ".join([self.weights.value, *(word for word, is_on in words.items() if is_on)])
