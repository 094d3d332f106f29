"""The mean of a round's deltas, chunk by chunk: memory does not grow with the number of workers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion_at_home.wire.vector import VectorReader


class WeightedMean:
    """sum(w_i d_i) / sum(w_i) in fp32.

    The terms are added to +0.0 in the order given, each multiplied by the binary32 nearest to w_i / sum(w) and rounded
    before it is added (see `ChunkCodec.add_to`), so that the same deltas in the same order give the same bits on every
    machine, whether or not a codec leaves out zeros: a sum that starts at +0.0 never becomes -0.0.
    """

    def __init__(self, deltas: Sequence[VectorReader], weights: Sequence[float]) -> None:
        assert len(deltas) == len(weights) > 0
        total = float(sum(weights))
        assert total > 0
        self._deltas = deltas
        self._shares = [float(torch.tensor(weight / total, dtype=torch.float32)) for weight in weights]

    def __len__(self) -> int:
        return len(self._deltas[0])

    def chunk(self, index: int) -> Tensor:
        """Chunk `index` of the mean; may be asked for from any thread.

        Raises:
            DecodeError: if one of the chunk's bytes are not what its codec writes.
        """
        mean = torch.zeros(self._deltas[0].chunk_elements(index))
        for delta, share in zip(self._deltas, self._shares, strict=True):
            delta.add_chunk_to(index, mean, share)
        return mean
