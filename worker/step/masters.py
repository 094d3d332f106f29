"""How a parameter's exact value is kept beside the numbers that the network computes with.

    fp32        the parameter itself. 4 bytes.
    stochastic  a bf16 parameter, rounded up or down at random so that the mean is exact. 2 bytes.
    split       a bf16 parameter and the 16 bits that rounding took off it: exact fp32. 4 bytes, of which the network and
                its gradients see 2.

Values go in and out as fp32 slices of the flattened parameter, so that an update needs no copy as large as a tensor.
Storing weights in plain bf16 would lose every update under 1/256 of a weight: published runs lost a fifth of their FID.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import StrEnum

import torch
from torch import Tensor

from diffusion_at_home.kept_weights import KeptWeights
from worker.step.place import StatePlace


class WeightKind(StrEnum):
    """Which of them."""

    FP32 = "fp32"
    STOCHASTIC = "stochastic"
    SPLIT = "split"

    @property
    def kept(self) -> KeptWeights:
        """What a worker says of it, whose plan has it."""
        return KeptWeights.ROUNDED if self is WeightKind.STOCHASTIC else KeptWeights.EXACT


class Master(ABC):
    """The exact value of one parameter, or of the part of it that lies on this device; `part` is of the flattened tensor."""

    def __init__(self, parameter: Tensor, device: torch.device) -> None:
        """`parameter` may lie on the host; what is read from it lies on `device`, where updates are computed."""
        assert parameter.is_contiguous()
        self._flat = parameter.view(-1)
        self.device = device
        """Where updates are computed."""

    @abstractmethod
    def read(self, part: slice, kept: Sequence[Tensor]) -> Tensor:
        """Elements of `part` as fp32; may share memory with the parameter. `kept` is `self.kept(part)`, on the device."""

    @abstractmethod
    def write(self, part: slice, value: Tensor, kept: Sequence[Tensor]) -> None:
        """Replace the elements of `part` by fp32 `value`; what `kept` holds is replaced too."""

    @property
    def num_elements(self) -> int:
        """Of the part that lies here."""
        return self._flat.numel()

    @property
    def in_place(self) -> bool:
        """Whether `read` gives the value itself: then what is done to it need not be written."""
        return False

    def kept(self, part: slice) -> list[Tensor]:  # noqa: ARG002
        """What is kept besides the parameter, wherever it lies."""
        return []


class Fp32Master(Master):
    """The parameter is the value."""

    @property
    def in_place(self) -> bool:
        """See `Master.in_place`."""
        return self._flat.device == self.device

    def read(self, part: slice, kept: Sequence[Tensor]) -> Tensor:  # noqa: ARG002
        """See `Master.read`: a view, if the parameter lies there."""
        return self._flat[part].to(self.device)

    def write(self, part: slice, value: Tensor, kept: Sequence[Tensor]) -> None:  # noqa: ARG002
        """See `Master.write`."""
        self._flat[part].copy_(value)


class StochasticMaster(Master):
    """A bf16 parameter, rounded stochastically: an update that is too small to be stored is stored sometimes."""

    def __init__(self, parameter: Tensor, device: torch.device) -> None:
        super().__init__(parameter, device)
        self.generator = torch.Generator(device)
        """Of the random bits."""

    def read(self, part: slice, kept: Sequence[Tensor]) -> Tensor:  # noqa: ARG002
        """See `Master.read`: a copy."""
        return self._flat[part].to(self.device).float()

    def write(self, part: slice, value: Tensor, kept: Sequence[Tensor]) -> None:  # noqa: ARG002
        """See `Master.write`; the expected value of what is stored is `value`."""
        self._flat[part].copy_(round_stochastically(value, self.generator))


class SplitMaster(Master):
    """A bf16 parameter and an int16 remainder.

    The parameter is the value rounded half away from zero, not half to even as a cast to bf16 would: only then can the
    two parts be told apart again.
    """

    def __init__(self, parameter: Tensor, device: torch.device, place: StatePlace) -> None:
        super().__init__(parameter, device)
        self._remainder = place.zeros(self.num_elements, torch.int16)

    def kept(self, part: slice) -> list[Tensor]:
        """See `Master.kept`: the remainder."""
        return [self._remainder[part]]

    def read(self, part: slice, kept: Sequence[Tensor]) -> Tensor:
        """See `Master.read`: a copy."""
        return join(self._flat[part].to(self.device), kept[0])

    def write(self, part: slice, value: Tensor, kept: Sequence[Tensor]) -> None:
        """See `Master.write`."""
        rounded, rest = split(value)
        self._flat[part].copy_(rounded)
        kept[0].copy_(rest)


def round_stochastically(value: Tensor, generator: torch.Generator) -> Tensor:
    """Fp32 `value` as bf16: one of the two neighbours, each with the probability that keeps the mean.

    Adds 16 random bits below the 16 that stay, and cuts. What is not finite is left as it is.
    """
    bits = value.view(torch.int32)
    noise = torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32, device=bits.device, generator=generator)
    rounded = noise.add_(bits).bitwise_and_(-(1 << 16)).view(torch.float32)
    return torch.where(torch.isfinite(value), rounded, value).to(torch.bfloat16)


def split(value: Tensor) -> tuple[Tensor, Tensor]:
    """Fp32 `value` as bf16, rounded half away from zero, and int16: its lower half, read as a signed number."""
    bits = value.view(torch.int32)
    rest = bits.to(torch.int16)  # keeps the lower 16 bits
    upper = (bits - rest.to(torch.int32)).bitwise_right_shift(16)
    return upper.to(torch.int16).view(torch.bfloat16), rest


def join(rounded: Tensor, rest: Tensor) -> Tensor:
    """The fp32 that `split` took apart."""
    upper = rounded.view(torch.int16).to(torch.int32).bitwise_left_shift_(16)
    return upper.add_(rest.to(torch.int32)).view(torch.float32)
