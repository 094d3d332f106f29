"""What a round's deltas come to, chunk by chunk: memory does not grow with the model, nor, for the mean, with the workers.

The same deltas in the same order give the same bits on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from diffusion_at_home.config.trust import AggregationRule, AggregationSection
from diffusion_at_home.wire.vector import VectorReader


@dataclass(frozen=True, slots=True)
class Weighed:
    """A delta and how it counts."""

    delta: VectorReader
    weight: float
    """Above 0."""
    scale: float = 1.0
    """What the delta is multiplied by first."""


class Aggregate(Protocol):
    """One delta that stands for a round's."""

    def __len__(self) -> int:
        """Its chunks."""

    def chunk(self, index: int) -> Tensor:
        """Chunk `index`, fp32; may be asked for from any thread.

        Raises:
            DecodeError: if one of the chunk's bytes are not what its codec writes.
        """


def aggregate(section: AggregationSection, given: Sequence[Weighed]) -> Aggregate:
    """By the rule of `section`; `given` is not empty. What `centered_clip` does is in the scales."""
    match section.rule:
        case AggregationRule.MEAN | AggregationRule.CENTERED_CLIP:
            return WeightedMean(given)
        case AggregationRule.TRIMMED_MEAN:
            return TrimmedMean(given, int(section.trim * len(given)))
        case AggregationRule.MEDIAN:
            return TrimmedMean(given, (len(given) - 1) // 2)


class WeightedMean:
    """sum(w_i s_i d_i) / sum(w_i) in fp32.

    The terms are added to +0.0 in the order given, each multiplied by the binary32 nearest to w_i s_i / sum(w) and rounded
    before it is added (see `ChunkCodec.add_to`), whether or not a codec leaves out zeros: a sum that starts at +0.0 never
    becomes -0.0.
    """

    def __init__(self, given: Sequence[Weighed]) -> None:
        assert given
        total = float(sum(one.weight for one in given))
        assert total > 0
        self._deltas = [one.delta for one in given]
        self._shares = [_binary32(one.weight * one.scale / total) for one in given]

    def __len__(self) -> int:
        return len(self._deltas[0])

    def chunk(self, index: int) -> Tensor:
        """See `Aggregate`."""
        mean = torch.zeros(self._deltas[0].chunk_elements(index))
        for delta, share in zip(self._deltas, self._shares, strict=True):
            delta.add_chunk_to(index, mean, share)
        return mean


class TrimmedMean:
    """Of each element by itself: the mean of s_i d_i but the `trimmed` lowest and highest (Yin et al. 2018, arXiv:1803.01498).

    Weights do not count; with all but one or two trimmed it is the median.
    """

    def __init__(self, given: Sequence[Weighed], trimmed: int) -> None:
        assert 0 <= 2 * trimmed < len(given)
        self._deltas = [one.delta for one in given]
        self._scales = [_binary32(one.scale) for one in given]
        self._kept = slice(trimmed, len(given) - trimmed)

    def __len__(self) -> int:
        return len(self._deltas[0])

    def chunk(self, index: int) -> Tensor:
        """See `Aggregate`."""
        values_gn = torch.zeros(len(self._deltas), self._deltas[0].chunk_elements(index))
        for values_n, delta, scale in zip(values_gn, self._deltas, self._scales, strict=True):
            delta.add_chunk_to(index, values_n, scale)
        kept_gn = values_gn.sort(dim=0).values[self._kept]
        mean = torch.zeros(values_gn.shape[1])
        for kept_n in kept_gn:  # one after another: the order in which a library adds up is its own
            mean += kept_n
        return mean / len(kept_gn)


def _binary32(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))
