"""A download that is cut off goes on where it was, also for a worker that has been started again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from coordinator.blobs import file_sha256
from diffusion_at_home.errors import RetryCall, Unreachable
from tests.integration.home_line import HOST, home_line
from tests.integration.live_run import LiveRun, encoded, serving, volunteers
from tests.unit.tiny_data import tiny_run_folder
from tests.unit.tiny_run import no_limit
from worker.backoff import Backoff
from worker.blobs import BlobCache, BlobFetcher, BlobRef
from worker.http_line import open_http
from worker.patience import Patience
from worker.run_address import RunAddress

NEVER = threading.Event()

HEADER_BYTES = 1024
"""Most that comes before a body."""


@contextmanager
def fail_instead_of_waiting(why: RetryCall) -> Iterator[None]:
    raise AssertionError(f"waited: {why}")
    yield


@contextmanager
def joiner(port: int, folder: Path) -> Iterator[BlobFetcher]:
    """As a process that starts with what lies in `folder`."""
    with open_http() as http:
        yield BlobFetcher(
            pacer=no_limit(),
            address=RunAddress.parse(f"http://{HOST}:{port}"),
            http=http,
            cache=BlobCache(folder, 1 << 30),
            patience=Patience(Backoff(1, 1), fail_instead_of_waiting),
        )


def published(run: LiveRun) -> dict[str, BlobRef]:
    """A snapshot, and the update after it."""
    with volunteers(run, 1) as (anna,):
        grant = anna.lease()
        snapshot = grant.catch_up[0]
        anna.submit(grant, encoded(run, 0.01))
        run.wait_for_version(1)
        update = anna.lease(held_version=0, has_weights=True).catch_up[0]
    return {
        "snapshot": BlobRef(snapshot.sha256, snapshot.size_bytes),
        "update": BlobRef(update.sha256, update.size_bytes),
    }


@pytest.mark.parametrize("kind", ["snapshot", "update"])
def test_download_that_is_cut_at_half_goes_on_from_there(tmp_path: Path, kind: str) -> None:
    larger = ("model.prx.hidden_size=128", "model.prx.depth=2", "model.prx.heads=4")
    folder = tiny_run_folder(tmp_path, *larger, "round.images=8", "lease.probe_steps=1", "evaluation.max_images=1")
    with serving(folder) as run:
        blob, port = published(run)[kind], httpx2.URL(run.url).port or 0
        assert blob.size_bytes > 100 * HEADER_BYTES
        with home_line([port], cut_down_after=blob.size_bytes // 2) as line:
            with joiner(port, tmp_path / "cache") as cut_off, pytest.raises(Unreachable):
                cut_off.fetch(blob, NEVER)
            before = line.down_bytes
            assert before < 0.6 * blob.size_bytes
            with joiner(port, tmp_path / "cache") as again, again.have(blob, NEVER) as path:
                assert file_sha256(path) == blob.sha256
            assert line.down_bytes <= blob.size_bytes + 2 * HEADER_BYTES  # nothing comes twice
