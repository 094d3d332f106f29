"""What encoding left out of this worker's deltas so far: added to the next one, kept over an orderly restart.

It belongs to the versions that the deltas started from. Once those lie too far back, or after a process that died and could not
save it, it is dropped: the run loses what one worker still had to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffusion_at_home import events
from diffusion_at_home.config.run import Codec, CodecSection
from diffusion_at_home.errors import StorageError, storage_errors
from diffusion_at_home.wire.feedback import encode_with_feedback
from diffusion_at_home.wire.layout import Layout
from diffusion_at_home.wire.vector import VectorReader, encode_chunks

_NAME: Final = "residual"

_MOST_VERSIONS: Final = 16
"""Between the last delta's base and the next one's; what was left out longer ago points from weights that are gone."""

_log = events.logger("worker")


class Residual:
    """fp32 (n,) in the run's layout, or nothing while there is none."""

    def __init__(self, path: Path, section: CodecSection, layout: Layout) -> None:
        """Take over what the last process saved at `path`; the file goes, so that it is never added twice."""
        self._path = path
        self._section = section
        self._layout = layout
        self._version = 0  # base of the last delta
        self._left = self._load() if section.feedback else None
        path.unlink(missing_ok=True)

    def encode(self, delta: Tensor, codec: Codec) -> Iterator[bytes]:
        """The chunks of `delta`, with what earlier ones left out if the run wants that."""
        if not self._section.feedback:
            return encode_chunks(codec, delta)
        if self._left is None:
            self._left = torch.zeros_like(delta)
        return encode_with_feedback(codec, delta, self._left, self._section.feedback)

    def take_back(self, encoded: memoryview) -> None:
        """What was `encoded` is not wanted: it is still to be said."""
        if self._section.feedback:
            if self._left is None:
                self._left = torch.zeros(self._layout.num_elements)
            VectorReader(encoded, self._section.delta, self._layout.num_elements).add_to(self._left)

    def starts_from(self, version: int) -> None:
        """The next delta starts from `version`: forget what was left out too long ago."""
        if self._left is not None and version - self._version > _MOST_VERSIONS:
            _log.info("residual_dropped", version=version, last_version=self._version)
            self._left = None
        self._version = version

    def close(self) -> None:
        """Save it for the next process; a disk that is full only loses it."""
        left, self._left = self._left, None
        if left is None:
            return
        try:
            with storage_errors(self._path.parent):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                facts = {"version": str(self._version), "digest": self._layout.weights_digest(left)}
                save_file({_NAME: left}, self._path, metadata=facts)
        except StorageError as error:
            self._path.unlink(missing_ok=True)
            _log.warning("residual_dropped", reason=str(error))

    def _load(self) -> Tensor | None:
        try:
            with safe_open(self._path, framework="pt") as file:
                left: Tensor = file.get_tensor(_NAME)
                facts = file.metadata()
                digest, self._version = facts["digest"], int(facts["version"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None
        if left.shape != (self._layout.num_elements,) or left.dtype != torch.float32:
            return None
        return left if self._layout.weights_digest(left) == digest else None  # one flipped bit may be an infinity
