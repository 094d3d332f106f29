"""What the scrubber reads with: every byte, and no longer than somebody wants it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from coordinator.slow_reader import SlowReader, Stopped
from diffusion_at_home.errors import IntegrityError
from diffusion_at_home.outer.state import RunState, read_through, state_digest
from diffusion_at_home.wire.vector import CHUNK_ELEMENTS
from tests.unit.tiny_run import tiny_config

AT_ONCE = 1e12


def a_state(path: Path) -> RunState:
    state = RunState.initial(tiny_config(), torch.arange(CHUNK_ELEMENTS + 5, dtype=torch.float32))
    state.save(path)
    return state


def test_digest_is_that_of_the_whole_file(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    (tmp_path / "file").write_bytes(data)
    assert SlowReader(AT_ONCE).sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_state_says_what_it_is_and_all_of_its_vectors_are_read(tmp_path: Path) -> None:
    path, read = tmp_path / "state.safetensors", list[int]()
    state = a_state(path)
    found = SlowReader(AT_ONCE).state(path)
    assert (found.version, found.images, found.digest) == (0, 0, state_digest(path))
    read_through(path, read.append)
    vectors = (state.published, state.master, state.ema, *state.moments)
    assert sum(read) == sum(vector.numel() * vector.element_size() for vector in vectors)
    assert max(read) == 4 * CHUNK_ELEMENTS


def test_state_that_is_damaged_or_gone_is_told_apart(tmp_path: Path) -> None:
    path, reader = tmp_path / "state.safetensors", SlowReader(AT_ONCE)
    a_state(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="digest it was saved with"):
        reader.state(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        reader.state(path)


def test_who_is_stopped_reads_no_further(tmp_path: Path) -> None:
    path, reader = tmp_path / "state.safetensors", SlowReader(1.0)  # a byte a second
    a_state(path)
    reader.stop()
    for read in (reader.sha256, reader.state):
        with pytest.raises(Stopped):
            read(path)
