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
from enum import StrEnum

import torch
from torch import Tensor, nn

from worker.step.place import StatePlace


class WeightKind(StrEnum):
    """Which of them."""

    FP32 = "fp32"
    STOCHASTIC = "stochastic"
    SPLIT = "split"


class Master(ABC):
    """The exact value of one parameter; elements count from the start of the flattened tensor."""

    def __init__(self, parameter: nn.Parameter) -> None:
        assert parameter.is_contiguous()
        self._flat = parameter.data.view(-1)

    @abstractmethod
    def read(self, begin: int, end: int) -> Tensor:
        """Elements `begin` to `end` as fp32; may share memory with the parameter."""

    @abstractmethod
    def write(self, begin: int, value: Tensor) -> None:
        """Replace the elements from `begin` on by fp32 `value`."""

    @property
    def in_place(self) -> bool:
        """Whether `read` gives the value itself: then what is done to it need not be written."""
        return False

    @property
    def remainder(self) -> Tensor | None:
        """What is kept besides the parameter."""
        return None


class Fp32Master(Master):
    """The parameter is the value."""

    @property
    def in_place(self) -> bool:
        """See `Master.in_place`."""
        return True

    def read(self, begin: int, end: int) -> Tensor:
        """See `Master.read`: a view."""
        return self._flat[begin:end]

    def write(self, begin: int, value: Tensor) -> None:
        """See `Master.write`."""
        self._flat[begin : begin + len(value)].copy_(value)


class StochasticMaster(Master):
    """A bf16 parameter, rounded stochastically: an update that is too small to be stored is stored sometimes."""

    def __init__(self, parameter: nn.Parameter) -> None:
        super().__init__(parameter)
        self.generator = torch.Generator(parameter.device)
        """Of the random bits."""

    def read(self, begin: int, end: int) -> Tensor:
        """See `Master.read`: a copy."""
        return self._flat[begin:end].float()

    def write(self, begin: int, value: Tensor) -> None:
        """See `Master.write`; the expected value of what is stored is `value`."""
        self._flat[begin : begin + len(value)].copy_(round_stochastically(value, self.generator))


class SplitMaster(Master):
    """A bf16 parameter and an int16 remainder.

    The parameter is the value rounded half away from zero, not half to even as a cast to bf16 would: only then can the
    two parts be told apart again.
    """

    def __init__(self, parameter: nn.Parameter, place: StatePlace) -> None:
        super().__init__(parameter)
        self._remainder = place.zeros(parameter.numel(), torch.int16)

    @property
    def remainder(self) -> Tensor | None:
        """See `Master.remainder`."""
        return self._remainder

    def read(self, begin: int, end: int) -> Tensor:
        """See `Master.read`: a copy."""
        rest = self._remainder[begin:end].to(self._flat.device, non_blocking=True)
        return join(self._flat[begin:end], rest)

    def write(self, begin: int, value: Tensor) -> None:
        """See `Master.write`."""
        end = begin + len(value)
        rounded, rest = split(value)
        self._flat[begin:end].copy_(rounded)
        self._remainder[begin:end].copy_(rest, non_blocking=True)  # whoever reads it comes after, on the same stream


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
