"""Real processes: any number of them makes the same bytes, also when they are killed on the way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from diffusion_at_home.errors import HardwareError, StorageError
from tests.integration.command_line import dah
from tests.unit.picture_folder import SMALL, contents, write_pictures
from tests.unit.tiny_run import REPOSITORY

NUM_PICTURES = 1100
"""Five units."""
SECONDS = 120


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    root = tmp_path_factory.mktemp("source") / "pictures"
    write_pictures(root, NUM_PICTURES)
    return root


@pytest.fixture(scope="module")
def built(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes without a break; not to be changed."""
    folder = tmp_path_factory.mktemp("data") / "built"
    made = dah(*words(pictures, folder, processes=1)).result
    assert made["train_images"] + made["held_out_images"] == NUM_PICTURES
    assert made["buckets"] == {"32x32": 367, "40x24": 367, "24x40": 366}
    assert (made["refused"], made["license"]) == ({}, "CC0-1.0")
    return folder


def words(pictures: Path, out: Path, *, processes: int) -> list[str | Path]:
    sets = [word for setting in (*SMALL, f"processes={processes}") for word in ("--set", setting)]
    return ["data", "build", pictures, out, *sets, "--json"]


def started(pictures: Path, out: Path) -> psutil.Popen:
    command = [sys.executable, "-m", "diffusion_at_home", *map(str, words(pictures, out, processes=2))]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    return psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def some_parts(out: Path) -> bool:
    return (out / "parts").is_dir() and any((out / "parts").glob("*.json"))


def readers(build: psutil.Popen) -> list[psutil.Process]:
    return [child for child in build.children() if "--multiprocessing-fork" in child.cmdline()]


def test_two_processes_make_the_same_bytes_as_one(pictures: Path, built: Path, tmp_path: Path) -> None:
    assert dah(*words(pictures, tmp_path / "out", processes=2)).code == 0
    assert contents(tmp_path / "out") == contents(built)


def test_a_killed_build_ends_its_processes_and_goes_on_to_the_same_bytes(
    pictures: Path, built: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    build = started(pictures, out)
    wait_for(lambda: some_parts(out))
    children = build.children()
    build.kill()
    build.communicate()
    wait_for(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children))
    assert not (out / "manifest.json").exists()
    left = {path: path.stat().st_mtime_ns for path in (out / "parts").glob("*.json")}
    assert 0 < len(left) < 5
    assert dah(*words(pictures, out, processes=2)).code == 0
    assert contents(out) == contents(built)


def test_a_reader_that_dies_is_an_error_and_what_was_read_stays(pictures: Path, built: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build = started(pictures, out)
    wait_for(lambda: some_parts(out))
    readers(build)[0].kill()
    said, error = build.communicate(timeout=SECONDS)
    assert (build.returncode, said) == (HardwareError.exit_code, "")
    *progress, line = error.splitlines()
    assert all(told.startswith("- ") for told in progress), error
    assert line.startswith(
        "dah: a process that read pictures has died, perhaps for want of memory: run the same command"
    )
    assert some_parts(out)
    assert dah(*words(pictures, out, processes=2)).code == 0
    assert contents(out) == contents(built)


def test_a_full_disk_is_one_sentence_and_no_loss(pictures: Path, built: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = dah(*words(pictures, out, processes=2), largest_file=51_200).refuses(StorageError.exit_code)
    assert said.startswith(f"cannot write below {out / 'parts'} (File too large): free some space and start again")
    assert not list((out / "parts").glob("*.tmp"))
    assert dah(*words(pictures, out, processes=2)).code == 0
    assert contents(out) == contents(built)
