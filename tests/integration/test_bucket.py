"""A run's public files in an object store that speaks S3: there before they are announced, gone with them, even after a crash."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from coordinator.elsewhere.bucket import Bucket
from coordinator.elsewhere.keeper import Keeper
from coordinator.elsewhere.public_files import PublicFiles
from coordinator.elsewhere.settings import Elsewhere, read_elsewhere
from coordinator.metrics import Metrics
from coordinator.problems import BUCKET
from diffusion_at_home.errors import ConfigError, Unreachable
from tests.integration.s3_server import KEYS, S3Server, s3_server

LARGE = os.urandom(20 * 2**20 + 7)
"""More than two parts of an upload."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with s3_server(tmp_path / "s3", monkeypatch) as server:
        yield server


class Run:
    """The public files of one, and who keeps them in the bucket; each `keeper` is another start."""

    def __init__(self, folder: Path, store: S3Server) -> None:
        self.blobs = folder / "blobs"
        self.blobs.mkdir()
        self.metrics = Metrics()
        self.bucket = Bucket(Elsewhere(bucket="s3://some-bucket/runs", endpoint=store.endpoint), "a-run")

    def add(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        (self.blobs / name).write_bytes(data)
        return name

    def look(self) -> PublicFiles:
        here = {path.name: path for path in self.blobs.iterdir()}
        return PublicFiles(here, frozenset(here))

    def keeper(self) -> Keeper:
        self.metrics = Metrics()
        return Keeper(bucket=self.bucket, leads_on=True, look=self.look, blobs=self.blobs, metrics=self.metrics)


@pytest.fixture
def run(tmp_path: Path, store: S3Server) -> Run:
    return Run(tmp_path, store)


def do(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def test_a_file_is_written_listed_read_by_a_signed_url_and_deleted(run: Run, store: S3Server) -> None:
    for data in (b"small", LARGE):
        name = run.add(data)
        run.bucket.put(name, run.blobs / name)
        assert run.bucket.sizes()[name] == len(data)
        assert store.files()[name].read_bytes() == data
        url = run.bucket.signed_url(name)
        assert "X-Amz-Expires=3600" in url
        assert KEYS["AWS_SECRET_ACCESS_KEY"] not in url
        answer = httpx2.get(url, headers={"Range": "bytes=2-"})
        assert (answer.status_code, answer.content) == (206, data[2:])
        run.bucket.delete(name)
        run.bucket.delete(name)
    assert run.bucket.sizes() == {}


def test_the_bucket_becomes_what_the_run_has_and_follows_it(run: Run, store: S3Server) -> None:
    names = {run.add(data) for data in (b"one", b"two", LARGE)}
    keeper = run.keeper()
    do(keeper.make_even())
    assert store.files().keys() == names
    (run.blobs / names.pop()).unlink()
    do(keeper.make_even())
    assert store.files().keys() == names


def test_a_start_finishes_what_the_one_before_has_not(run: Run, store: S3Server) -> None:
    one, two, three = (run.add(data) for data in (b"one", b"two", b"three"))
    do(run.keeper().make_even())
    store.files()[one].unlink()  # as if it had died before it was written
    store.files()[two].write_bytes(b"t")
    (run.blobs / three).unlink()  # and before this was deleted
    do(run.keeper().make_even())
    assert {name: path.read_bytes() for name, path in store.files().items()} == {one: b"one", two: b"two"}


def test_what_is_damaged_here_is_not_written_there(run: Run, store: S3Server) -> None:
    name = run.add(b"one")
    (run.blobs / name).write_bytes(b"0ne")
    do(run.keeper().make_even())
    assert store.files() == {}


def test_what_is_announced_is_there_and_what_is_there_is_led_to(run: Run, store: S3Server) -> None:
    keeper = run.keeper()
    do(keeper.make_even())
    name = run.add(b"a version")
    assert do(keeper.leads_to(name)) == ""
    do(keeper.announce([name, ""]))
    assert name in store.files()
    url = do(keeper.leads_to(name))
    assert httpx2.get(url).content == b"a version"
    assert do(keeper.leads_to(name)) == url  # not signed for each who asks
    (run.blobs / name).unlink()
    do(keeper.make_even())
    assert do(keeper.leads_to(name)) == ""


def test_a_store_that_is_gone_is_a_problem_and_nobody_is_led_there_or_waits(run: Run, store: S3Server) -> None:
    name = run.add(b"one")
    keeper = run.keeper()
    do(keeper.make_even())
    store.kill()
    do(keeper.announce([run.add(b"two")]))
    assert do(keeper.leads_to(name)) == ""
    (problem,) = run.metrics.problems.present()
    assert problem.name == BUCKET
    assert "s3://some-bucket/runs/a-run" in problem.sentence
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in problem.sentence
    with pytest.raises(Unreachable):
        do(keeper.make_even())
    store.start()
    do(keeper.make_even())
    assert len(store.files()) == 2


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ('bucket = "ftp://x/y"', "is no store"),
        ('bucket = "s3://key:secret@x/y"', "credentials do not belong here"),
        ('buckt = "s3://x/y"', "did you mean 'bucket'"),
        ('bucket = "gs://x/y"\nendpoint = "https://s3.example"', "change bucket or endpoint"),
        ('bucket = "s3://x/y"\nendpoint = "http://s3.example"', "set redirect = false"),
        ('mirrors = ["http://mirror.example"]', "is no mirror that workers ask"),
        ('mirrors = ["https://mirror.example/?a=b"]', "is no mirror that workers ask"),
        ("bucket =", "is not valid TOML"),
    ],
)
def test_a_mistake_in_the_settings_is_one_sentence_that_names_the_file(
    tmp_path: Path, lines: str, sentence: str
) -> None:
    path = tmp_path / "elsewhere.toml"
    path.write_text(lines)
    with pytest.raises(ConfigError, match=sentence) as error:
        read_elsewhere(path)
    assert str(error.value).startswith(str(path))
    assert "secret" not in str(error.value).replace("credentials", "")


def test_no_file_is_nowhere_else(tmp_path: Path) -> None:
    assert read_elsewhere(tmp_path / "elsewhere.toml") == Elsewhere()
