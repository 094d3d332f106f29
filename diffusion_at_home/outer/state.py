"""What a run is between two rounds, and how one round moves it; owns the arithmetic of a version and its own file.

The coordinator steps exact weights (`master`) but publishes a compressed difference, so what workers hold (`published`)
lags by what compression left out. That residual, master - published, is never dropped: the next update is the encoded
difference to `published`, so it carries everything the last ones lost (error feedback). Every replica adds the same
decoded numbers in the same order, hence `published` is the same bits everywhere.

A state's file carries the digest of each of its vectors: one in which a bit has flipped is refused, not stepped on.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.errors import IntegrityError, storage_errors
from diffusion_at_home.model.ema import ema_decay, ema_update
from diffusion_at_home.outer.aggregation import Aggregate
from diffusion_at_home.outer.step import num_moments, outer_step
from diffusion_at_home.sync import sync_folder
from diffusion_at_home.wire.codecs import chunk_codec
from diffusion_at_home.wire.parallel import in_order
from diffusion_at_home.wire.vector import CHUNK_ELEMENTS

_METADATA: Final = "dah"


@dataclass(slots=True)
class RunState:
    """Vectors are fp32 (n,) in the run's layout."""

    version: int
    """Outer steps taken."""
    images: int
    """Images accepted into those."""
    published: Tensor
    """The weights of `version`: what every replica holds."""
    master: Tensor
    """The exact weights, before the update was compressed."""
    ema: Tensor
    """Average of `master`, half-life in images."""
    moments: list[Tensor]
    """State of the outer optimizer."""

    @classmethod
    def initial(cls, config: RunConfig, weights: Tensor) -> RunState:
        """Version 0 of a run that starts from `weights`."""
        moments = [torch.zeros_like(weights) for _ in range(num_moments(config.outer.optimizer))]
        return cls(0, 0, weights.clone(), weights.clone(), weights.clone(), moments)

    def advance(self, config: RunConfig, mean_delta: Aggregate, images: int) -> Iterator[bytes]:
        """Take one outer step and yield the chunks of the encoded update that takes replicas to it.

        The state is complete only after the last chunk; a caller that stops halfway must load it again.
        """
        codec = chunk_codec(config.codec.update)
        decay = ema_decay(images, config.ema.half_life_images)
        vectors = (self.published, self.master, self.ema, *self.moments)
        chunks = list(zip(*(torch.split(vector, CHUNK_ELEMENTS) for vector in vectors), strict=True))
        assert len(chunks) == len(mean_delta)

        def step(index: int) -> bytes:
            published, master, ema, *moments = chunks[index]
            outer_step(config.outer, master, moments, self.version, mean_delta.chunk(index))
            encoded = codec.encode(master - published)
            codec.add_to(memoryview(encoded), published, 1.0)  # as replicas do
            ema_update(ema, master, decay)
            return encoded

        yield from in_order(step, len(chunks))
        self.version += 1
        self.images += images

    def save(self, path: Path) -> None:
        """Write everything to `path`, durable and all or nothing. Raises `StorageError`."""
        tensors = {"published": self.published, "master": self.master, "ema": self.ema}
        tensors |= {f"moment_{index}": moment for index, moment in enumerate(self.moments)}
        digests = {name: _digest(tensor) for name, tensor in tensors.items()}
        facts = json.dumps({"version": self.version, "images": self.images, "digests": digests}, sort_keys=True)
        temporary = path.with_suffix(".tmp")
        with storage_errors(path.parent):
            with writing_safetensors():
                save_file(tensors, temporary, metadata={_METADATA: facts})
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)

    @classmethod
    def load(cls, path: Path) -> RunState:
        """Read what `save` wrote. Raises `IntegrityError` if it is not that any more."""
        with _opened(path) as file:
            facts = json.loads(file.metadata()[_METADATA])
            tensors = {name: _checked(file, name, facts) for name in facts["digests"]}
            moments = [tensors[name] for name in sorted(tensors) if name.startswith("moment_")]
            vectors = (tensors["published"], tensors["master"], tensors["ema"])
            return cls(facts["version"], facts["images"], *vectors, moments)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A state file to read; whatever is wrong with it within is an `IntegrityError`."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{path} is not a readable run state ({error}): restore it from a backup") from error


@contextmanager
def writing_safetensors() -> Iterator[None]:
    """Within, what the operating system said about a write is an `OSError`: safetensors only quotes its number."""
    try:
        yield
    except SafetensorError as error:
        if (quoted := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        number = int(quoted[1])
        raise OSError(number, os.strerror(number)) from error


def load_weights(path: Path) -> tuple[Tensor, Tensor]:
    """The published weights and their average, fp32 (n,) each, of the state in `path`. Raises `IntegrityError`."""
    with _opened(path) as file:
        facts = json.loads(file.metadata()[_METADATA])
        return _checked(file, "published", facts), _checked(file, "ema", facts)


@dataclass(frozen=True, slots=True)
class StateFacts:
    """What a state's file says of itself."""

    version: int
    images: int
    digest: str
    """sha256 (hex) that names the state: of its version, its images and its vectors' digests."""


def state_digest(path: Path) -> str:
    """What names the state in `path`; reads all of it. Raises `IntegrityError`."""
    return read_through(path).digest


def read_through(path: Path, has_read: Callable[[int], None] = lambda _: None) -> StateFacts:
    """Compare all vectors of the state in `path` with their digests, a chunk at a time, of whose bytes `has_read` is told.

    Raises `IntegrityError` if a vector is not what its digest says, and whatever `has_read` raises.
    """
    with _opened(path) as file:
        text = file.metadata()[_METADATA]
        facts = json.loads(text)
        for name, digest in facts["digests"].items():
            vector, sha256 = file.get_slice(name), hashlib.sha256()
            (num_elements,) = vector.get_shape()
            for start in range(0, num_elements, CHUNK_ELEMENTS):
                chunk = vector[start : start + CHUNK_ELEMENTS]
                sha256.update(_chunk_digest(chunk))
                has_read(chunk.numel() * chunk.element_size())
            if sha256.hexdigest() != digest:
                raise ValueError(f"{name} does not have the digest it was saved with")
        return StateFacts(facts["version"], facts["images"], hashlib.sha256(text.encode()).hexdigest())


def _checked(file: Any, name: str, facts: dict[str, Any]) -> Tensor:
    """The vector `name` of an opened file; what differs from its digest is a `ValueError`."""
    # A copy: what the library returns are pages of the file, which may be read from the disk anew after they were checked.
    tensor: Tensor = file.get_tensor(name).clone()
    if _digest(tensor) != facts["digests"][name]:
        raise ValueError(f"{name} does not have the digest it was saved with")
    return tensor


def _digest(vector: Tensor) -> str:
    """sha256 (hex) of the sha256 (32 bytes) of each of a vector's chunks, which all cores work on."""
    parts = torch.split(vector, CHUNK_ELEMENTS)
    sha256 = hashlib.sha256()
    for digest in in_order(lambda index: _chunk_digest(parts[index]), len(parts)):
        sha256.update(digest)
    return sha256.hexdigest()


def _chunk_digest(chunk: Tensor) -> bytes:
    return hashlib.sha256(chunk.numpy().data.cast("B")).digest()
