"""Who only looks whether a worker runs keeps none from starting, and a worker that runs keeps out every other."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from diffusion_at_home.errors import ConfigError
from worker.state_folder import StateFolder


def test_a_worker_starts_while_others_look_again_and_again(tmp_path: Path) -> None:
    over = threading.Event()

    def look() -> None:
        folder = StateFolder(tmp_path)
        while not over.wait(0.002):
            folder.in_use  # noqa: B018 -- it takes the lock

    lookers = [threading.Thread(target=look) for _ in range(3)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(10):
            with StateFolder(tmp_path).locked():
                assert StateFolder(tmp_path).in_use
    finally:
        over.set()
        for looker in lookers:
            looker.join()
    assert not StateFolder(tmp_path).in_use


def test_a_worker_waits_for_a_command_that_has_the_lock_for_a_moment(tmp_path: Path) -> None:
    locked = threading.Event()

    def errand() -> None:
        with StateFolder(tmp_path).locked():
            locked.set()
            time.sleep(0.1)

    command = threading.Thread(target=errand)
    command.start()
    locked.wait()
    with StateFolder(tmp_path).locked():
        pass
    command.join()


def test_two_workers_never_own_one_folder(tmp_path: Path) -> None:
    with (
        StateFolder(tmp_path).locked(),
        pytest.raises(ConfigError, match="another worker uses"),
        StateFolder(tmp_path).locked(),
    ):
        pass
