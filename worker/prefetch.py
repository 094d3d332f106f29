"""Fetches the shards that the next leases will probably need, while this one trains."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

from diffusion_at_home.errors import LeaseLost, RetryCall, StorageError
from worker.blobs import BlobFetcher, BlobRef

_LOOK_SECONDS: Final = 0.5


class Prefetcher:
    """Fetches the latest wish, in order; what cannot be had now is left to whoever needs it."""

    def __init__(self, blobs: BlobFetcher) -> None:
        self._blobs = blobs
        self._wanted: Sequence[BlobRef] = ()

    def want(self, blobs: Sequence[BlobRef]) -> None:
        """Replace the wish."""
        self._wanted = blobs

    def run(self, ended: threading.Event) -> None:
        """Fetch until `ended` is set; belongs on a thread of its own."""
        tried: Sequence[BlobRef] = ()
        while not ended.wait(_LOOK_SECONDS):
            wanted = self._wanted
            if wanted is not tried:
                self._fetch(wanted, ended)
                tried = wanted

    def _fetch(self, wanted: Sequence[BlobRef], ended: threading.Event) -> None:
        for blob in wanted:
            if wanted is not self._wanted:
                return
            if self._blobs.cached(blob):
                continue
            try:
                self._blobs.fetch(blob, ended)
            except (RetryCall, LeaseLost, StorageError):  # a cache without room for more is not the end
                continue
