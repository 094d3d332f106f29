"""Where each tensor of a model lies in the one flat vector that is aggregated, encoded and hashed.

The vector is fp32, little-endian, tensors in the order of their names. Both sides derive the layout from the run's
config and compare its digest; it never travels.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

assert sys.byteorder == "little", "vectors are hashed and sent as they lie in memory, which must be little-endian"


@dataclass(frozen=True)
class Slot:
    """One tensor's place."""

    name: str
    shape: tuple[int, ...]
    offset: int
    """First element."""
    num_elements: int


@dataclass(frozen=True)
class Layout:
    """All slots, without gaps or overlaps."""

    slots: tuple[Slot, ...]

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        """The layout of `model`'s trainable parameters, tied ones once."""
        slots: list[Slot] = []
        offset = 0
        for name, parameter in sorted(model.named_parameters()):
            slots.append(Slot(name, tuple(parameter.shape), offset, parameter.numel()))
            offset += parameter.numel()
        return cls(tuple(slots))

    @cached_property
    def num_elements(self) -> int:
        """Length of the vector."""
        return sum(slot.num_elements for slot in self.slots)

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of the JSON list of [name, shape]."""
        text = json.dumps([[slot.name, list(slot.shape)] for slot in self.slots], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def flatten(self, model: nn.Module) -> Tensor:
        """Copy the parameters of `model` into a new CPU fp32 vector, (num_elements,)."""
        flat = torch.empty(self.num_elements, dtype=torch.float32)
        parameters = dict(model.named_parameters())
        for slot, view in zip(self.slots, self.views(flat), strict=True):
            view.copy_(parameters[slot.name].detach())
        return flat

    @torch.no_grad()
    def load(self, model: nn.Module, flat: Tensor) -> None:
        """Copy `flat`, (num_elements,), into the parameters of `model`, in their own dtype and device."""
        parameters = dict(model.named_parameters())
        for slot, view in zip(self.slots, self.views(flat), strict=True):
            parameters[slot.name].copy_(view)

    def views(self, flat: Tensor) -> list[Tensor]:
        """Each slot's part of `flat`, shaped, sharing its memory."""
        assert flat.shape == (self.num_elements,), (flat.shape, self.num_elements)
        return [flat[s.offset : s.offset + s.num_elements].view(s.shape) for s in self.slots]

    def weights_digest(self, flat: Tensor) -> str:
        """sha256 (hex) that names a version: of the lines "dah-weights-1" and layout digest, then the fp32 bytes."""
        assert flat.dtype == torch.float32
        sha256 = hashlib.sha256(b"dah-weights-1\n" + self.digest.encode() + b"\n")
        sha256.update(flat.detach().contiguous().numpy().data.cast("B"))
        return sha256.hexdigest()
