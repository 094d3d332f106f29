"""A run with a bucket: who asks the coordinator for a blob is led there, and gets it from here where that does not help."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx2
import pytest

from coordinator.doctor.elsewhere import check_elsewhere
from coordinator.ledger import Ledger
from coordinator.parts import spec_of
from diffusion_at_home.doctor import State
from diffusion_at_home.errors import RetryCall
from diffusion_at_home.rpc import coordinator_pb2 as pb
from tests.integration.live_run import LiveRun, encoded, serving, volunteers
from tests.integration.s3_server import KEYS, s3_server
from tests.unit.tiny_data import tiny_run_folder
from tests.unit.tiny_run import no_limit
from worker.backoff import Backoff
from worker.blobs import BlobCache, BlobFetcher, BlobRef
from worker.http_line import limits, open_http
from worker.mirrors import STORE, Mirrors
from worker.patience import Patience
from worker.run_address import RunAddress

NEVER = threading.Event()
WIDE = ("model.prx.hidden_size=128", "round.images=16", "lease.probe_steps=2", "evaluation.every_images=1000")
ANSWER_BYTES = 1500
"""Most that is said of a file instead of sending it; half of it is what browsers are told."""


@contextmanager
def fail_instead_of_waiting(why: RetryCall) -> Iterator[None]:
    raise AssertionError(f"waited: {why}")
    yield


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def counted(run: LiveRun, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", run.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def sent(run: LiveRun) -> float:
    return counted(run, 'dah_sent_bytes_total{kind="blob"}')


class Reader:
    """A worker that only downloads, each blob once."""

    def __init__(self, run: LiveRun, cache: Path) -> None:
        self.bytes = 0
        self.mirrors = Mirrors((), run.url)
        self._http = open_http()
        self._blobs = BlobFetcher(
            address=RunAddress.parse(run.url),
            http=self._http,
            cache=BlobCache(cache, 10**9),
            patience=Patience(Backoff(1, 300), fail_instead_of_waiting),
            pacer=no_limit(),
            on_bytes=self._received,
            mirrors=self.mirrors,
        )

    def close(self) -> None:
        self._http.close()

    def fetch(self, blob: pb.Blob) -> None:
        self._blobs.fetch(BlobRef(blob.sha256, blob.size_bytes), NEVER)

    def _received(self, num_bytes: int) -> None:
        self.bytes += num_bytes


def test_what_is_in_the_bucket_comes_from_there_and_from_here_while_the_store_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_run_folder(tmp_path, *WIDE)
    files = len(list(folder.blobs.iterdir()))  # the specification, shards, version 0
    with s3_server(tmp_path / "s3", monkeypatch) as store:
        folder.elsewhere.write_text(store.settings('mirrors = ["https://mirror.example/some"]'))
        with serving(folder) as run, volunteers(run, 1) as (anna,), ExitStack() as stack:
            assert run.get("/run.json").json()["mirrors"] == ["https://mirror.example/some"]
            until(lambda: counted(run, "dah_bucket_files") == files)
            anna.submit(anna.lease(), encoded(run, 0.5))
            run.wait_for_version(1)
            snapshot, update = anna.lease().catch_up
            assert {snapshot.sha256, update.sha256} <= store.files().keys()  # at once: before it was announced

            caches = [tmp_path / f"cache-{number}" for number in range(4)]
            readers = [stack.enter_context(closing(Reader(run, cache))) for cache in caches]
            for reader in readers:
                reader.fetch(snapshot)
                reader.fetch(update)
            down = sum(reader.bytes for reader in readers)
            assert down == 4 * (snapshot.size_bytes + update.size_bytes)
            assert counted(run, "dah_redirects_total") == 8
            assert 0 < sent(run) <= 8 * ANSWER_BYTES
            print(f"{sent(run):.0f} bytes from the coordinator, {down} by the workers")  # noqa: T201
            with closing(Ledger(folder.ledger, read_only=True)) as ledger:
                check = check_elsewhere(folder, spec_of(folder, ledger), ledger.versions())
            assert (check.state, f"has {files + 1} of {files + 1} files" in check.found) == (State.FINE, True)

            direct = run.get(f"/blobs/{update.sha256}?from=here")
            assert (direct.status_code, len(direct.content)) == (200, update.size_bytes)
            led = run.get(f"/blobs/{update.sha256}")
            assert (led.status_code, led.headers["Cache-Control"]) == (307, "no-store")
            assert KEYS["AWS_SECRET_ACCESS_KEY"] not in led.headers["Location"]

            store.kill()
            late = stack.enter_context(closing(Reader(run, tmp_path / "late")))
            late.fetch(snapshot)
            assert late.bytes == snapshot.size_bytes
            assert late.mirrors.rests(STORE)
            anna.submit(anna.lease(), encoded(run, 0.5))
            run.wait_for_version(2)
            assert [problem["name"] for problem in run.status()["live"]["problems"]] == ["bucket"]
            assert run.get(f"/blobs/{update.sha256}").status_code == 200


def test_what_must_be_public_is_not_sent_a_byte_where_it_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, open_http() as http:
        url = f"http://localhost:{server.getsockname()[1]}/"
        with pytest.raises(httpx2.ConnectError, match="own"), limits(public_only=True):
            http.get(url)
        server.settimeout(10)
        connection, _ = server.accept()
        with connection:
            assert connection.recv(100) == b""
