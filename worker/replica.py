"""The weights a worker holds: one version of the run, bit for bit, or none.

Weights whose digest is not the announced one are dropped at once, so that the next lease brings a snapshot.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor

from diffusion_at_home.config.run import Codec
from diffusion_at_home.errors import LeaseLost
from diffusion_at_home.wire.chunk import DecodeError
from diffusion_at_home.wire.layout import Layout
from diffusion_at_home.wire.vector import VectorReader
from worker.blobs import BlobFetcher
from worker.grant import Grant, WeightsBlob


class Replica:
    """fp32 weights on the CPU, (n,) in the run's layout, with their version."""

    def __init__(self, layout: Layout, update_codec: Codec, blobs: BlobFetcher) -> None:
        self._layout = layout
        self._update_codec = update_codec
        self._blobs = blobs
        self._weights: Tensor | None = None
        self._version = 0
        self._digest = ""  # of the weights held; empty until it is asked for

    @property
    def held_version(self) -> int:
        """The version held; 0 also when none is."""
        return self._version if self.has_weights else 0

    @property
    def has_weights(self) -> bool:
        """Whether any version is held."""
        return self._weights is not None

    def hold(self, version: int, weights: Tensor) -> None:
        """Take `weights`, fp32 (n,), over as those of `version`; its digest is asked for when they are used."""
        self._weights, self._version, self._digest = weights, version, ""

    def bring_to(
        self, grant: Grant, interrupt: threading.Event, on_fetched: Callable[[], None] = lambda: None
    ) -> Tensor:
        """The weights of the grant's base version; not to be changed by the caller. `on_fetched`: all of it has come.

        Raises `Interrupted`, and `LeaseLost` if the blobs do not lead there.
        """
        with ExitStack() as opened:
            # All fetched first: an interrupt between two updates must not leave the weights half way.
            views = [opened.enter_context(self._blobs.open(step.blob, interrupt)) for step in grant.catch_up]
            on_fetched()
            for step, view in zip(grant.catch_up, views, strict=True):
                self._apply(step, view)
        if self._weights is None or self._version != grant.base_version:
            raise self._no_way(f"version {grant.base_version}")
        self._check(self._weights, grant.base_digest)
        return self._weights

    def _apply(self, step: WeightsBlob, view: memoryview) -> None:
        codec = Codec.FP32 if step.is_snapshot else self._update_codec
        try:
            reader = VectorReader(view, codec, self._layout.num_elements)
            if step.is_snapshot:
                weights = torch.empty(self._layout.num_elements)
                reader.copy_to(weights)
            else:
                weights = self._weights_before(step)
                reader.add_to(weights)
        except DecodeError as error:
            self._drop()
            raise LeaseLost(f"the blob of version {step.version} cannot be read: {error}", "undecodable_blob") from None
        self._weights, self._version, self._digest = weights, step.version, ""
        if step.is_snapshot:
            self._check(weights, step.weights_digest)

    def _weights_before(self, update: WeightsBlob) -> Tensor:
        if self._weights is None or self._version + 1 != update.version:
            raise self._no_way(f"the update to version {update.version}")
        return self._weights

    def _check(self, weights: Tensor, weights_digest: str) -> None:
        self._digest = self._digest or self._layout.weights_digest(weights)
        if self._digest != weights_digest:
            version = self._version
            self._drop()
            raise LeaseLost(f"the weights of version {version} do not match their digest", "base_digest_mismatch")

    def _no_way(self, target: str) -> LeaseLost:
        held = f"version {self._version}" if self.has_weights else "no weights"
        self._drop()
        return LeaseLost(f"the lease's blobs do not lead from {held} to {target}", "no_way_to_base")

    def _drop(self) -> None:
        self._weights, self._version, self._digest = None, 0, ""
