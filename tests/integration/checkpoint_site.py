"""A web server on loopback that publishes checkpoints as a coordinator does, and misbehaves when told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from diffusion_at_home.checkpoint.listing import LISTING_PATH, file_path
from tests.unit.tiny_checkpoint import listing_of


class Site(ThreadingHTTPServer):
    """Serves `pages`, with Range, and counts what it was asked for."""

    def __init__(self, *folders: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        """Path and Range of each request."""
        self.sent: dict[str, int] = {}
        """Bytes of bodies sent, by path."""
        self.cuts: dict[str, list[int]] = {}
        """By path, after how many bytes the line drops, one number a request; then it holds."""
        self.knows_range = True
        self.statuses: dict[str, int] = {}
        """Answered instead of a page."""
        self.publish(*folders)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def publish(self, *folders: Path) -> None:
        """Offer the checkpoints in `folders` and no others."""
        self.pages = {LISTING_PATH: listing_of(*folders).model_dump_json().encode()}
        for folder in folders:
            for path in (path for path in folder.rglob("*") if path.is_file()):
                self.pages[file_path(folder.name, path.relative_to(folder).as_posix())] = path.read_bytes()

    def path_of(self, name: str) -> str:
        """Where the file `name` of the only checkpoint is."""
        (path,) = (path for path in self.pages if path.endswith(f"/{name}"))
        return path

    def handle_error(self, *_: Any) -> None:
        """Say nothing of clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        site, wanted = self.server, self.headers.get("Range")
        site.asked.append((self.path, wanted))
        page = site.pages.get(self.path)
        status = site.statuses.get(self.path, 404 if page is None else 200)
        body = page if page is not None and status == 200 else b""
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and site.knows_range else 0
        if start:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(status)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        cuts = site.cuts.get(self.path)
        body = body[start:][: cuts.pop(0) if cuts else None]
        site.sent[self.path] = site.sent.get(self.path, 0) + len(body)
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def serving_checkpoints(*folders: Path) -> Iterator[Site]:
    site = Site(*folders)
    thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        site.shutdown()
        thread.join()
        site.server_close()
