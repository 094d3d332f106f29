"""The weights of a model while a lease trains it: one master a parameter, and the delta that comes out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffusion_at_home.wire.layout import Layout
from worker.step.masters import Fp32Master, Master, SplitMaster, StochasticMaster, WeightKind
from worker.step.place import StatePlace
from worker.step.rules import SLICE_ELEMENTS

DTYPES = {WeightKind.FP32: torch.float32, WeightKind.STOCHASTIC: torch.bfloat16, WeightKind.SPLIT: torch.bfloat16}
"""What the network's parameters are kept in."""


class TrainedWeights:
    """The exact values of all parameters, on the device; a whole copy in fp32 exists on the CPU only."""

    def __init__(self, model: nn.Module, layout: Layout, kind: WeightKind, place: StatePlace) -> None:
        """`model` has parameters of the dtype that `kind` wants, on its device; remainders lie in `place`."""
        self._layout = layout
        parameters = dict(model.named_parameters())
        self.parameters = [parameters[slot.name] for slot in layout.slots]
        """In the layout's order."""
        self.masters = [_master(parameter, kind, place) for parameter in self.parameters]
        """Of `parameters`, in that order."""

    def load(self, base: Tensor, seed: int) -> None:
        """Start from `base`, fp32 (n,) on the CPU; `seed` decides how updates are rounded.

        Loading is never random: what does not fit into a stochastic master's bf16 is rounded to nearest, everywhere alike.
        """
        for slot, parameter, master in zip(self._layout.slots, self.parameters, self.masters, strict=True):
            value = base[slot.offset : slot.offset + slot.num_elements]
            if isinstance(master, StochasticMaster):
                # A stream for each tensor: the order in which tensors are updated changes nothing.
                master.generator.manual_seed((seed + slot.offset) % 2**63)
                parameter.data.view(-1).copy_(value)
                continue
            for begin in range(0, slot.num_elements, SLICE_ELEMENTS):
                master.write(begin, value[begin : begin + SLICE_ELEMENTS].to(parameter.device))

    def delta(self, base: Tensor) -> Tensor:
        """What was learned since `load(base, ...)`: the values then minus the values now, fp32 (n,) on the CPU."""
        delta = torch.empty_like(base)
        for slot, master in zip(self._layout.slots, self.masters, strict=True):
            for begin in range(0, slot.num_elements, SLICE_ELEMENTS):
                end = min(begin + SLICE_ELEMENTS, slot.num_elements)
                part = slice(slot.offset + begin, slot.offset + end)
                loaded = base[part]
                if isinstance(master, StochasticMaster):  # what rounding took off `base` was not learned
                    loaded = loaded.to(torch.bfloat16).float()
                torch.sub(loaded, master.read(begin, end).cpu(), out=delta[part])
        return delta


def _master(parameter: nn.Parameter, kind: WeightKind, place: StatePlace) -> Master:
    assert parameter.dtype is DTYPES[kind]
    match kind:
        case WeightKind.FP32:
            return Fp32Master(parameter)
        case WeightKind.STOCHASTIC:
            return StochasticMaster(parameter)
        case WeightKind.SPLIT:
            return SplitMaster(parameter, place)
