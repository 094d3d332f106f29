"""The mean of a round's deltas, chunk by chunk: memory does not grow with the number of workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from diffusion_at_home.wire.vector import VectorReader


def weighted_mean(deltas: Sequence[VectorReader], weights: Sequence[float]) -> Iterator[Tensor]:
    """Yield the chunks of sum(w_i d_i) / sum(w_i), fp32.

    The terms are added to +0.0 in the order given, each multiplied by the binary32 nearest to w_i / sum(w) and rounded
    before it is added (see `ChunkCodec.add_to`), so that the same deltas in the same order give the same bits on every
    machine, whether or not a codec leaves out zeros: a sum that starts at +0.0 never becomes -0.0.

    Raises:
        DecodeError: if a chunk's bytes are not what its codec writes.
    """
    assert len(deltas) == len(weights) > 0
    total = float(sum(weights))
    assert total > 0
    for index in range(len(deltas[0])):
        mean = torch.zeros(deltas[0].chunk_elements(index))
        for delta, weight in zip(deltas, weights, strict=True):
            delta.add_chunk_to(index, mean, _share(weight, total))
        yield mean


def _share(weight: float, total: float) -> float:
    return float(torch.tensor(weight / total, dtype=torch.float32))
