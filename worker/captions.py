"""Captions of a run whose text encoder is frozen: each shard's are encoded once, and kept on the disk beside the shard.

What lies there is named by the shard, by the encoder and by all that decides what it makes of a caption, so nothing of another
run is ever taken for it; with the shard it is evicted, and encoded again when the shard is back. What is damaged is encoded
again too.

A lease stays a function of public facts: captions are encoded shard by shard, in the order of the file, and never in that of a
lease, so this machine always makes the same bits of them. Another kind of machine may round the last bit of fp32 otherwise, which
changes a number in bf16 seldom and then by one step, 0.4 % of it: as much as its arithmetic differs in training itself.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import threading
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from diffusion_at_home.errors import DataError
from diffusion_at_home.frozen_text import FrozenText
from diffusion_at_home.runspec import RunSpec
from worker.blobs import BlobCache, BlobRef
from worker.embedding_file import read_embeddings, size_bytes, write_embeddings
from worker.text_encoder import RunTextEncoder

Embedded = Mapping[str, Tensor]
"""For each caption of a shard, and for the empty one, the embeddings of its tokens: (L, D) in bf16."""


class CaptionEmbeddings:
    """Those of one run's shards."""

    def __init__(self, spec: RunSpec, text: FrozenText, encoder: RunTextEncoder, cache: BlobCache) -> None:
        """`text` is the one of `spec`."""
        self._hidden_size = spec.config.model.text.hidden_size
        self._name = f"captions-{_key(spec, text)}"
        self._encoder = encoder
        self._cache = cache

    def cached(self, shard: str) -> bool:
        """Whether the shard of that sha256 has been encoded, soundly or not: a cheap question."""
        return self._cache.beside(shard, self._name).exists()

    def read(self, shard: str, captions: Sequence[str]) -> Embedded | None:
        """What was kept of a shard's `captions`; None if there is nothing, or nothing sound."""
        path, texts = self._cache.beside(shard, self._name), _with_the_empty_one(captions)
        try:
            rows = read_embeddings(path, len(texts), self._hidden_size)
            os.utime(path)
        except (DataError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return None
        return dict(zip(texts, rows, strict=True))

    def encode(self, shards: Iterable[tuple[str, Sequence[str]]], interrupt: threading.Event) -> None:
        """Encode and keep the captions of `shards`, each a sha256 and the texts of that file in its order.

        The caller sees to it that shards are in use while they are named. What is done when `interrupt` is set stays. Raises as
        `RunTextEncoder.opened`, and `StorageError`.
        """
        with self._encoder.opened(interrupt) as encode:
            for shard, captions in shards:
                rows = encode(_with_the_empty_one(captions))
                self._cache.make_room(BlobRef(shard, size_bytes(rows)))
                write_embeddings(self._cache.beside(shard, self._name), rows)


def _with_the_empty_one(captions: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(["", *captions]))


def _key(spec: RunSpec, text: FrozenText) -> str:
    model = spec.config.model
    parts = (
        text.model_dump_json(),
        f"{model.kind} {model.in_latents} {model.text.max_tokens}",  # how its pipeline cleans and cuts a caption
        *(importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers", "tokenizers", "ftfy")),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
