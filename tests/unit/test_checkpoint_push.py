"""What goes to a hub is the checkpoint, whole and nothing else; what goes wrong is one sentence without a token."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi

from diffusion_at_home.checkpoint.manifest import MANIFEST_NAME, SIGNATURE_NAME, FileEntry
from diffusion_at_home.checkpoint.push import Target, check_replaceable, files_of, push
from diffusion_at_home.checkpoint.rounds import rounds_bytes
from diffusion_at_home.errors import ConfigError, DahError, IntegrityError, RetryCall, Unreachable
from tests.unit.test_checkpoint_card import manifest

TOKEN = "hf_secretsecretsecret"
REPO = "ada/squares"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder that is as its manifest says."""
    folder = tmp_path / "checkpoint"
    versions = [("a" * 64, ""), ("b" * 64, "c" * 64), ("d" * 64, "e" * 64), ("3" * 64, "f" * 64)]
    contents = {
        "README.md": b"# Squares\n",
        "rounds.json": rounds_bytes("tiny-00000000", versions),
        "transformer/model.safetensors": b"weights",
    }
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    files = {
        name: FileEntry(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        for name, data in contents.items()
    }
    (folder / MANIFEST_NAME).write_text(manifest(files=files).model_dump_json())
    return folder


class Hub(HfApi):
    """One that takes everything, and remembers it."""

    def __init__(self, *, held: tuple[str, ...] = (), private: bool = False) -> None:
        super().__init__(endpoint="https://hub.example", token=TOKEN)
        self.held, self.private = held, private
        self.branches: list[str] = []
        self.uploads: list[dict[str, Any]] = []

    def create_repo(self, _repo: str, **options: Any) -> Any:
        assert options["exist_ok"]

    def repo_info(self, _repo: str, **_: Any) -> Any:
        return SimpleNamespace(private=self.private)

    def create_branch(self, _repo: str, **options: Any) -> None:
        self.branches.append(options["branch"])

    def list_repo_files(self, _repo: str, **_: Any) -> list[str]:
        return list(self.held)

    def upload_folder(self, **options: Any) -> Any:
        self.uploads.append(options)
        return SimpleNamespace(oid="0" * 40)


def target(**changes: Any) -> Target:
    return Target(**({"repo": REPO, "private": False, "revision": None} | changes))


def test_the_files_of_the_manifest_and_the_manifest_go_up(checkpoint: Path) -> None:
    hub = Hub()
    done = push(checkpoint, target(), hub)
    (upload,) = hub.uploads
    assert upload["allow_patterns"] == ["README.md", MANIFEST_NAME, "rounds.json", "transformer/model.safetensors"]
    assert upload["delete_patterns"] == "*"
    assert upload["commit_message"] == "tiny-000000100: version 3, 100 images"
    assert (done.url, done.commit) == (f"https://hub.example/{REPO}", "0" * 40)


def test_a_signature_goes_with_them(checkpoint: Path) -> None:
    (checkpoint / SIGNATURE_NAME).touch()
    assert SIGNATURE_NAME in files_of(checkpoint, manifest())


@pytest.mark.parametrize("spoil", ["changed", "added"])
def test_nothing_of_a_checkpoint_that_does_not_verify_goes_up(checkpoint: Path, spoil: str) -> None:
    (checkpoint / ("README.md" if spoil == "changed" else "run.py")).write_text("import os")
    hub = Hub()
    with pytest.raises(IntegrityError):
        push(checkpoint, target(), hub)
    assert hub.uploads == []


def test_another_branch_is_made_first(checkpoint: Path) -> None:
    hub = Hub()
    push(checkpoint, target(revision="round-3"), hub)
    assert hub.branches == [hub.uploads[0]["revision"]] == ["round-3"]


def test_a_repository_of_something_else_is_not_emptied(checkpoint: Path) -> None:
    hub = Hub(held=(".gitattributes", "thesis.pdf"))
    with pytest.raises(ConfigError, match=rf"^{REPO} holds something else \(thesis\.pdf\), which would be deleted"):
        push(checkpoint, target(), hub)
    assert hub.uploads == []
    for files in ([], [".gitattributes"], [".gitattributes", MANIFEST_NAME, "old.safetensors"]):
        check_replaceable(REPO, files)


def test_what_should_be_private_never_goes_to_a_public_repository(checkpoint: Path) -> None:
    hub = Hub(private=False)
    with pytest.raises(ConfigError, match="is there already, and public"):
        push(checkpoint, target(private=True), hub)
    assert hub.uploads == []
    assert push(checkpoint, target(private=True), Hub(private=True)).files


@contextmanager
def hub_that_answers(status: int) -> Iterator[HfApi]:
    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield HfApi(endpoint=f"http://127.0.0.1:{server.server_port}", token=TOKEN)
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "error", "sentence"),
    [
        (401, ConfigError, "the hub does not know you: run `hf auth login`"),
        (403, ConfigError, f"your token may not write to {REPO}"),
        (404, ConfigError, f"the hub has no {REPO} that you may write to"),
        (422, ConfigError, rf"the hub refuses {REPO} \(HTTP 422"),
        (500, RetryCall, r"the hub is busy \(HTTP 500\): try again later"),
    ],
)
def test_each_refusal_is_a_sentence_that_says_what_to_do(
    checkpoint: Path, status: int, error: type[DahError], sentence: str
) -> None:
    with hub_that_answers(status) as hub, pytest.raises(error, match=f"^{sentence}") as raised:
        push(checkpoint, target(), hub)
    assert TOKEN not in f"{raised.value}"
    assert "\n" not in f"{raised.value}"


def test_a_hub_that_does_not_answer_is_one_too(checkpoint: Path) -> None:
    nobody = HfApi(endpoint="http://127.0.0.1:9", token=TOKEN)
    with pytest.raises(Unreachable, match="goes on where it broke off"):
        push(checkpoint, target(), nobody)


def test_a_name_that_is_none_is_refused_by_name(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="is no name of a repository: give one like OWNER/NAME"):
        push(checkpoint, target(repo="a/b/c"), HfApi(endpoint="http://127.0.0.1:9", token=TOKEN))
