"""The local socket of a worker, and what may be done to it."""

from __future__ import annotations

import socket
import stat
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from diffusion_at_home.clock import SystemClock
from diffusion_at_home.errors import ConfigError, NotRunning
from worker.background import Background
from worker.control.client import ask
from worker.control.desk import Desk
from worker.control.messages import MOST_BYTES, Reply, Request, Verb
from worker.control.pause_file import PauseFile
from worker.control.permission import Permission, Unhindered
from worker.control.server import ControlServer
from worker.control.socket_place import connected, listening
from worker.control.wishes import Wish
from worker.progress import Progress
from worker.state_folder import StateFolder

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


def damaged_settings() -> None:
    raise ConfigError("worker.toml: unknown key 'cache_gb'")


class Worker:
    """All of one but the work."""

    def __init__(self, root: Path) -> None:
        self.folder = StateFolder(root)
        self.permission = Permission(PauseFile(self.folder.pause), Unhindered(), lambda: NOON)
        self.died = threading.Event()
        progress = Progress(self.folder.status, SystemClock())
        desk = Desk(self.permission, reload=damaged_settings, status=lambda: progress.status, now=lambda: NOON)
        self.server = ControlServer(self.folder.control, desk.answer, patience_seconds=0.5)

    @property
    def socket(self) -> Path:
        return self.folder.control / "socket"

    def say(self, words: bytes) -> Reply:
        """What it answers to these very bytes."""
        with connected(self.folder.control, 10) as connection:
            connection.sendall(words)
            connection.shutdown(socket.SHUT_WR)
            return Reply.model_validate_json(connection.makefile("rb").read())


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    deep = tmp_path / ("a folder with a name that is longer than an address of a socket may be " * 2)
    worker = Worker(deep)
    with worker.folder.locked(), Background("control", worker.server.run, worker.died.set):
        yield worker
        assert ask(worker.folder, Request(verb=Verb.STATUS)).refused == ""  # whatever was done to it
    assert not worker.died.is_set()
    assert not worker.socket.exists()


def test_each_verb_is_heard(worker: Worker) -> None:
    def wish(verb: Verb, **more: object) -> Wish:
        return ask(worker.folder, Request.model_validate({"verb": verb, **more})).wish

    assert wish(Verb.STATUS) is Wish.RUNNING
    assert wish(Verb.PAUSE) is Wish.PAUSED
    assert wish(Verb.RESUME) is Wish.RUNNING
    assert wish(Verb.PAUSE, seconds=60) is Wish.PAUSED
    assert worker.permission.paused_until == NOON + timedelta(minutes=1)
    assert wish(Verb.FINISH) is Wish.FINISHING
    with worker.permission.stretch() as signal:
        assert wish(Verb.STOP, at_once=True) is Wish.STOPPING
        assert signal.at_once.is_set()


def test_what_cannot_be_done_is_said_in_one_sentence(worker: Worker) -> None:
    with pytest.raises(ConfigError, match=r"refuses that: worker\.toml: unknown key 'cache_gb'"):
        ask(worker.folder, Request(verb=Verb.RELOAD))


def test_nobody_but_its_owner_reaches_it(worker: Worker) -> None:
    assert stat.S_IMODE(worker.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(worker.folder.control.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (b"", "ends before"),
        (b'{"verb": "pause"}', "ends before"),
        (b"\n", "no request"),
        (b"\xff\xfe\x00\n", "no request"),
        (b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n", "no request"),
        (b"null\n", "no request"),
        (b"[" * 4000 + b"\n", "no request"),
        (b'{"verb": "explode"}\n', "no request: verb"),
        (b'{"verb": "pause", "seconds": -1}\n', "no request: seconds"),
        (b'{"verb": "pause", "seconds": 1e300}\n', "no request: seconds"),
        (b'{"verb": "pause", "seconds": NaN}\n', "no request"),
        (b'{"verb": "pause", "until": "now"}\n', "no request: until"),
        (b"x" * (MOST_BYTES + 1) + b"\n", f"longer than {MOST_BYTES} bytes"),
        (b"x" * 100_000, f"longer than {MOST_BYTES} bytes"),
    ],
    ids=repr,
)
def test_rubbish_gets_one_sentence_and_changes_nothing(worker: Worker, words: bytes, said: str) -> None:
    try:
        refused = worker.say(words).refused
    except ConnectionError:  # it was closed while there was still more to say
        assert len(words) > MOST_BYTES
        refused = said
    assert said in refused
    assert "\n" not in refused
    assert worker.permission.wish is Wish.RUNNING


def test_who_says_nothing_is_left_alone_and_holds_nobody_up(worker: Worker) -> None:
    half_open = [connected(worker.folder.control, 10) for _ in range(8)]
    half_open[0].sendall(b'{"verb": ')
    assert ask(worker.folder, Request(verb=Verb.STATUS)).wish is Wish.RUNNING
    for connection in half_open:
        assert connection.recv(1) == b""  # its patience is over
        connection.close()


def test_more_than_it_serves_at_once_are_sent_away_and_may_come_back(worker: Worker) -> None:
    held = [connected(worker.folder.control, 10) for _ in range(32)]
    with pytest.raises(ConfigError, match="too many ask at once"):
        ask(worker.folder, Request(verb=Verb.STATUS))
    for connection in held:
        assert connection.recv(1) == b""
        connection.close()


def test_a_dead_workers_socket_is_no_worker_and_in_nobodys_way(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    listening(folder.control).close()  # as after kill -9
    assert (folder.control / "socket").exists()
    with pytest.raises(NotRunning) as raised:
        ask(folder, Request(verb=Verb.STATUS))
    assert raised.value.exit_code == 14
    again = Worker(tmp_path)
    with again.folder.locked(), Background("control", again.server.run, again.died.set):
        assert ask(again.folder, Request(verb=Verb.STATUS)).wish is Wish.RUNNING
