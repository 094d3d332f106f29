"""A plan: which parts the training step is made of on this machine. The run decides what is computed, the plan only how."""

from __future__ import annotations

from dataclasses import dataclass

from worker.step.masters import WeightKind


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One way to take a training step."""

    weights: WeightKind = WeightKind.FP32
    """How exact values are kept. bf16 parameters are computed with as they are, fp32 ones under the device's precision."""
    checkpointing: bool = False
    """Whether activations are computed again in the backward pass instead of kept."""
    release: bool = False
    """Whether each tensor is updated inside the backward pass; needs inner.clip = "tensor"."""
    offload: bool = False
    """Whether optimizer state and remainders lie in the host's memory."""
    micro_batch_images: int = 0
    """Images in one forward pass, whose gradients are accumulated; 0 is the whole batch."""

    def __str__(self) -> str:
        """As people read it: `split, recompute, release`."""
        words = {
            "recompute": self.checkpointing,
            "release": self.release,
            "offload": self.offload,
            f"{self.micro_batch_images} at a time": self.micro_batch_images > 0,
        }
        return ", ".join([self.weights.value, *(word for word, is_on in words.items() if is_on)])
