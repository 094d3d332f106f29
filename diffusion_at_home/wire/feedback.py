"""Error feedback on the sender's side: what encoding leaves out of one vector is added to the next.

Seide et al. 2014 (1-bit SGD); with a decay as in SparseLoCo (Sarfi et al. 2025, arXiv:2508.15706, algorithm 1). Without
it a sparse codec would never send what is always small.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from diffusion_at_home.config.run import Codec
from diffusion_at_home.wire.codecs import chunk_codec
from diffusion_at_home.wire.parallel import in_order
from diffusion_at_home.wire.vector import CHUNK_ELEMENTS


def encode_with_feedback(codec: Codec, vector: Tensor, residual: Tensor, decay: float) -> Iterator[bytes]:
    """Encode `vector` + `decay` x `residual`, fp32 (n,) each, chunk by chunk; `residual` becomes what that left out.

    The residual is complete after the last chunk. Raises `ValueError` as the codec, and then the residual is of no use.
    """
    chunks, lefts = torch.split(vector, CHUNK_ELEMENTS), torch.split(residual, CHUNK_ELEMENTS)

    def encode(index: int) -> bytes:
        return encode_left(codec, lefts[index].mul_(decay).add_(chunks[index]))

    yield from in_order(encode, len(chunks))


def encode_left(codec: Codec, left: Tensor) -> bytes:
    """Encode a chunk of what there is to send, fp32 (m,); it becomes what that leaves out. Raises `ValueError` as the codec."""
    coder = chunk_codec(codec)
    encoded = coder.encode(left)
    coder.add_to(memoryview(encoded), left, -1.0)
    return encoded
