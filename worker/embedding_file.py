"""Embeddings of one shard's captions, as a worker keeps them on its disk beside the shard.

A safetensors file of two tensors, for U captions with T tokens between them and D features:

    lengths  I32   (U,)    tokens of each caption
    values   BF16  (T, D)  one caption after the other

and one entry of its metadata: `dah-embeddings-1`, the sha256 (hex) of the bytes of lengths and values.

bf16, because a denoiser that computes in bf16 rounds its input to it anyway; one that computes in fp32 sees numbers that are
off by a 512th at most, 0.17 % of a token in the mean square. int8 with a scale for each token would take half as much and be off
by 0.7 % where features are of one size, and by several percent where a few are far larger, as in pretrained encoders.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffusion_at_home.errors import DataError, storage_errors
from diffusion_at_home.outer.state import writing_safetensors

_FORMAT: Final = "dah-embeddings-1"


def write_embeddings(path: Path, rows: Sequence[Tensor]) -> None:
    """Write one tensor (tokens, D) for each caption to `path`, all or nothing. Raises `StorageError`."""
    lengths_U = torch.tensor([len(row) for row in rows], dtype=torch.int32)
    values_TD = torch.cat([row.to(torch.bfloat16) for row in rows])
    temporary = path.with_name(f"{path.name}.part")
    with storage_errors(path.parent), writing_safetensors():
        save_file(
            {"lengths": lengths_U, "values": values_TD}, temporary, metadata={_FORMAT: _digest(lengths_U, values_TD)}
        )
        temporary.replace(path)


def read_embeddings(path: Path, num_captions: int, hidden_size: int) -> list[Tensor]:
    """What `write_embeddings` wrote, in bf16. Raises `DataError` if it is not there, or not that."""
    try:
        with safe_open(path, framework="pt") as file:
            lengths_U, values_TD = file.get_tensor("lengths"), file.get_tensor("values")
            digest = (file.metadata() or {}).get(_FORMAT)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read ({error}): delete it") from None
    sound = (
        (lengths_U.dtype, values_TD.dtype) == (torch.int32, torch.bfloat16)
        and (lengths_U.shape, values_TD.shape) == ((num_captions,), (int(lengths_U.sum()), hidden_size))
        and digest == _digest(lengths_U, values_TD)
    )
    if not sound:
        raise DataError(f"{path} is damaged or of other captions: delete it")
    return list(values_TD.split(lengths_U.tolist()))


def size_bytes(rows: Sequence[Tensor]) -> int:
    """About what the file of `rows` takes."""
    return sum(2 * row.numel() + 4 for row in rows) + 1024


def _digest(lengths_U: Tensor, values_TD: Tensor) -> str:
    sha256 = hashlib.sha256(lengths_U.numpy().data.cast("B"))
    sha256.update(values_TD.view(torch.int16).numpy().data.cast("B"))
    return sha256.hexdigest()
