"""The weights of a model while a lease trains it: one master a parameter, and the delta that comes out.

Of a model that is cut over several devices, each device's process has its own parts here, and reads and writes only their
places in the vectors of all weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffusion_at_home.wire.layout import Layout
from worker.step.masters import Fp32Master, Master, SplitMaster, StochasticMaster, WeightKind
from worker.step.place import StatePlace
from worker.step.rules import SLICE_ELEMENTS
from worker.step.shards import first_element, local

DTYPES = {WeightKind.FP32: torch.float32, WeightKind.STOCHASTIC: torch.bfloat16, WeightKind.SPLIT: torch.bfloat16}
"""What the network's parameters are kept in."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A parameter, as far as it lies here."""

    parameter: nn.Parameter
    master: Master
    offset: int
    """Of its first element here, in a vector of all weights."""


class TrainedWeights:
    """The exact values of all parameters; a whole copy in fp32 exists on the CPU only."""

    def __init__(
        self, model: nn.Module, layout: Layout, kind: WeightKind, place: StatePlace, device: torch.device
    ) -> None:
        """`model` has parameters of the dtype that `kind` wants; remainders lie in `place`; `device` computes."""
        self._place = place
        parameters = dict(model.named_parameters())
        self.pieces: list[Piece] = []
        """In the layout's order."""
        for slot in layout.slots:
            parameter = parameters[slot.name]
            assert parameter.dtype is DTYPES[kind]
            master = _master(local(parameter.data), kind, place, device)
            self.pieces.append(Piece(parameter, master, slot.offset + first_element(parameter)))

    def load(self, base: Tensor, seed: int) -> None:
        """Start from `base`, fp32 (n,) on the CPU; `seed` decides how updates are rounded.

        Loading is never random: what does not fit into a stochastic master's bf16 is rounded to nearest, everywhere alike.
        """
        for piece in self.pieces:
            master = piece.master
            if isinstance(master, StochasticMaster):
                # A stream for each tensor: the order in which tensors are updated changes nothing.
                master.generator.manual_seed((seed + piece.offset) % 2**63)
                value = base[piece.offset : piece.offset + master.num_elements]
                local(piece.parameter.data).view(-1).copy_(value)
                continue
            for part in _slices(master.num_elements):
                value = base[piece.offset + part.start : piece.offset + part.stop]
                with self._place.at_hand(master.kept(part)) as kept:
                    master.write(part, value.to(piece.master.device), kept)

    def delta(self, base: Tensor, out: Tensor) -> None:
        """What was learned since `load(base, ...)`: the values then minus the values now, into `out`, fp32 (n,) on the CPU.

        Writes the elements that lie here, and no others; `out` may be `base`.
        """
        for piece in self.pieces:
            for part in _slices(piece.master.num_elements):
                place = slice(piece.offset + part.start, piece.offset + part.stop)
                loaded = base[place]
                if isinstance(piece.master, StochasticMaster):  # what rounding took off `base` was not learned
                    loaded = loaded.to(torch.bfloat16).float()
                with self._place.at_hand(piece.master.kept(part)) as kept:
                    torch.sub(loaded, piece.master.read(part, kept).cpu(), out=out[place])

    def kept(self) -> list[Tensor]:
        """All that is kept besides the parameters."""
        return [tensor for piece in self.pieces for tensor in piece.master.kept(slice(0, piece.master.num_elements))]


def _slices(num_elements: int) -> list[slice]:
    return [slice(begin, min(begin + SLICE_ELEMENTS, num_elements)) for begin in range(0, num_elements, SLICE_ELEMENTS)]


def _master(parameter: Tensor, kind: WeightKind, place: StatePlace, device: torch.device) -> Master:
    match kind:
        case WeightKind.FP32:
            return Fp32Master(parameter, device)
        case WeightKind.STOCHASTIC:
            return StochasticMaster(parameter, device)
        case WeightKind.SPLIT:
            return SplitMaster(parameter, device, place)
