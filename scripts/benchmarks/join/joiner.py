"""What somebody who joins downloads first, by the worker's own code: the newest weights, whole.

python -m benchmarks.join.joiner RUN_FOLDER URL CACHE_FOLDER BYTES_PER_SECOND: one joiner after another, for ever.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from coordinator.blobs import BlobStore
from coordinator.ledger import Ledger
from coordinator.run_folder import RunFolder
from diffusion_at_home.clock import SystemClock
from diffusion_at_home.errors import LeaseLost, RetryCall
from worker.backoff import Backoff
from worker.blobs import BlobCache, BlobFetcher, BlobRef
from worker.http_line import open_http
from worker.pacer import Pacer
from worker.patience import Patience
from worker.run_address import RunAddress

_NEVER: Final = threading.Event()
_RETRY_CEILING_SECONDS: Final = 1.0


def newest_weights(folder: RunFolder) -> list[BlobRef]:
    """What leads from nothing to the newest version: a snapshot and updates."""
    blobs = BlobStore(folder.blobs, folder.staging)
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        history = ledger.versions()
    base = max(version.version for version in history if blobs.path(version.snapshot_sha256))
    snapshot = BlobRef(history[base].snapshot_sha256, history[base].snapshot_bytes)
    return [snapshot, *(BlobRef(version.update_sha256, version.update_bytes) for version in history[base + 1 :])]


def download(url: str, blobs: Sequence[BlobRef], bytes_per_second: float, folder: Path) -> float:
    """Seconds until all `blobs` are in an empty cache below `folder`, their digests checked."""
    with tempfile.TemporaryDirectory(prefix="cache-", dir=folder) as cache, open_http() as http:
        fetcher = BlobFetcher(
            address=RunAddress.parse(url),
            http=http,
            cache=BlobCache(Path(cache), sum(blob.size_bytes for blob in blobs)),
            patience=Patience(Backoff(_RETRY_CEILING_SECONDS, _RETRY_CEILING_SECONDS), _no_word),
            pacer=Pacer(bytes_per_second, SystemClock(), time.sleep),
        )
        started = time.monotonic()
        for blob in blobs:
            with fetcher.have(blob, _NEVER):
                pass
        return time.monotonic() - started


@contextmanager
def _no_word(_: RetryCall) -> Iterator[None]:
    yield


if __name__ == "__main__":
    run, address, root, rate = RunFolder(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3]), float(sys.argv[4])
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    while True:
        try:
            download(address, newest_weights(run), rate, root)
        except LeaseLost:
            continue  # the snapshot is too old by now: the next one
