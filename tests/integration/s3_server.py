"""An object store that speaks S3, as a process of its own on loopback; its buckets are folders."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

KEYS = {
    "AWS_ACCESS_KEY_ID": "a-key",
    "AWS_SECRET_ACCESS_KEY": "a-secret-that-nobody-is-told",
    "AWS_REGION": "us-east-1",
}
BUCKET = "some-bucket"


class S3Server:
    """One that runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / BUCKET).mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def settings(self, *lines: str) -> str:
        """`elsewhere.toml` for it."""
        return "\n".join([f'bucket = "s3://{BUCKET}/runs"', f'endpoint = "{self.endpoint}"', *lines])

    def files(self) -> dict[str, Path]:
        """What is in the bucket, by sha256."""
        found = self.root.glob(f"{BUCKET}/runs/*/blobs/*")
        return {path.name: path for path in found if len(path.name) == 64}

    def start(self) -> None:
        command = [sys.executable, "-m", "localbucket", "--port", str(self._port), str(self.root)]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdout=quiet, stderr=quiet, env={**os.environ})
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline, "the store does not start"
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def s3_server(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A store with an empty bucket; its keys are in the environment meanwhile."""
    pytest.importorskip("obstore")
    pytest.importorskip("localbucket")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    server = S3Server(root)
    server.start()
    try:
        yield server
    finally:
        server.kill()
