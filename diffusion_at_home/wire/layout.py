"""Where each tensor of a model lies in the one flat vector that is aggregated, encoded and hashed.

The vector is fp32, little-endian, tensors in the order of their names. Both sides derive the layout from the run's
config and compare its digest; it never travels.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Final

import torch
from torch import Tensor, nn

from diffusion_at_home.errors import DataError
from diffusion_at_home.wire.parallel import in_order

assert sys.byteorder == "little", "vectors are hashed and sent as they lie in memory, which must be little-endian"

_DIGEST_ELEMENTS: Final = 1 << 20


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

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """What `to_json` wrote. Raises `DataError`."""
        try:
            tensors = [(str(name), tuple(int(size) for size in shape)) for name, shape in json.loads(text)]
        except (ValueError, TypeError) as error:
            raise DataError(f"this is not a layout ({error}): make it again from the model") from None
        sizes = [math.prod(shape) for _, shape in tensors]
        offsets = accumulate(sizes, initial=0)
        return cls(tuple(Slot(*t, offset, size) for t, offset, size in zip(tensors, offsets, sizes, strict=False)))

    def to_json(self) -> str:
        """The list of [name, shape]."""
        return json.dumps([[slot.name, list(slot.shape)] for slot in self.slots], separators=(",", ":"))

    @cached_property
    def num_elements(self) -> int:
        """Length of the vector."""
        return sum(slot.num_elements for slot in self.slots)

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of `to_json`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

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
        """sha256 (hex) that names a version.

        Of the lines "dah-weights-1" and layout digest, then the sha256 (32 bytes) of each 4 MiB of the fp32 bytes, the last
        of them shorter: so that all cores can work on it.
        """
        assert flat.dtype == torch.float32
        parts = torch.split(flat.detach().contiguous(), _DIGEST_ELEMENTS)
        sha256 = hashlib.sha256(b"dah-weights-1\n" + self.digest.encode() + b"\n")
        for part in in_order(lambda index: hashlib.sha256(parts[index].numpy().data.cast("B")).digest(), len(parts)):
            sha256.update(part)
        return sha256.hexdigest()
