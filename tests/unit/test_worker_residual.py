"""What encoding leaves out of one delta is said by the next."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffusion_at_home.config.run import Codec, CodecSection
from diffusion_at_home.wire.codecs import chunk_codec
from diffusion_at_home.wire.layout import Layout, Slot
from diffusion_at_home.wire.vector import CHUNK_ELEMENTS, VectorReader
from worker.grant import LeaseId
from worker.outbox import Outbox
from worker.residual import Residual
from worker.trainer import Trained

SIZE = CHUNK_ELEMENTS + 1000
LAYOUT = Layout((Slot("weight", (SIZE,), 0, SIZE),))
LOSSY = CodecSection(delta=Codec.INT8, feedback=0.5)


def delta(seed: int) -> Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(seed))


def said(outbox: Outbox, lease: int, value: Tensor) -> Tensor:
    """What the other side reads of a lease's delta, which counts."""
    put = outbox.put(LeaseId(lease), Trained(value, 1, 1.0, 0.0), LOSSY.delta)
    found = torch.zeros(SIZE)
    VectorReader(memoryview(outbox.vector(put).read_bytes()), LOSSY.delta, SIZE).add_to(found)
    outbox.remove(put)
    return found


def rounded(value: Tensor) -> Tensor:
    """`value` as the codec writes it, chunk by chunk."""
    codec = chunk_codec(LOSSY.delta)
    return torch.cat([codec.decode(memoryview(codec.encode(c)), len(c)) for c in torch.split(value, CHUNK_ELEMENTS)])


def naive(deltas: list[Tensor], decay: float) -> list[Tensor]:
    """Algorithm 1 of the paper, on whole vectors."""
    left, sent = torch.zeros(SIZE), []
    for value in deltas:
        left = decay * left + value
        sent.append(rounded(left))
        left = left - sent[-1]
    return sent


def test_each_delta_carries_a_share_of_what_earlier_ones_left_out(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox", Residual(tmp_path / "residual", LOSSY, LAYOUT))
    deltas = [delta(seed) for seed in range(4)]
    for lease, (value, expected) in enumerate(zip(deltas, naive(deltas, 0.5), strict=True)):
        assert torch.equal(said(outbox, lease, value), expected)


def test_without_feedback_each_delta_speaks_for_itself(tmp_path: Path) -> None:
    section = CodecSection(delta=Codec.INT8)
    outbox = Outbox(tmp_path / "outbox", Residual(tmp_path / "residual", section, LAYOUT))
    for lease in range(2):
        assert torch.equal(said(outbox, lease, delta(0)), rounded(delta(0)))


def test_an_orderly_restart_keeps_it_once_and_a_crash_drops_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "residual"
    first, second = naive([delta(0), delta(1)], 0.5)
    residual = Residual(path, LOSSY, LAYOUT)
    assert torch.equal(said(Outbox(tmp_path / "outbox", residual), 0, delta(0)), first)
    residual.close()
    again = Residual(path, LOSSY, LAYOUT)
    assert not path.exists()
    assert torch.equal(said(Outbox(tmp_path / "outbox", again), 1, delta(1)), second)
    after_crash = Residual(path, LOSSY, LAYOUT)  # `again` was never closed
    assert torch.equal(said(Outbox(tmp_path / "outbox", after_crash), 2, delta(1)), rounded(delta(1)))


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(("later", "kept"), [(16, True), (17, False)])
def test_it_is_dropped_once_its_base_lies_too_far_back(tmp_path: Path, later: int, kept: bool, restarted: bool) -> None:
    path = tmp_path / "residual"
    residual = Residual(path, LOSSY, LAYOUT)
    residual.starts_from(5)
    said(Outbox(tmp_path / "outbox", residual), 0, delta(0))
    if restarted:
        residual.close()
        residual = Residual(path, LOSSY, LAYOUT)
    residual.starts_from(5 + later)
    expected = naive([delta(0), delta(1)], 0.5)[1] if kept else rounded(delta(1))
    assert torch.equal(said(Outbox(tmp_path / "outbox", residual), 1, delta(1)), expected)


def test_what_is_refused_is_said_again(tmp_path: Path) -> None:
    residual = Residual(tmp_path / "residual", CodecSection(delta=Codec.INT8, feedback=1.0), LAYOUT)
    outbox = Outbox(tmp_path / "outbox", residual)
    put = outbox.put(LeaseId(0), Trained(delta(0), 1, 1.0, 0.0), Codec.INT8)
    outbox.refused(put)
    assert outbox.recover() == []
    assert torch.allclose(said(outbox, 1, torch.zeros(SIZE)), rounded(delta(0)), atol=1e-6)


@pytest.mark.parametrize("damage", ["rubbish", "another layout", "cut"])
def test_a_file_that_is_not_this_run_s_is_ignored(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "residual"
    layout = LAYOUT if damage != "another layout" else Layout((Slot("other", (SIZE,), 0, SIZE),))
    residual = Residual(path, LOSSY, layout)
    said(Outbox(tmp_path / "outbox", residual), 0, delta(0))
    residual.close()
    if damage == "rubbish":
        path.write_bytes(b"rubbish")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    again = Residual(path, LOSSY, LAYOUT)
    assert torch.equal(said(Outbox(tmp_path / "outbox", again), 1, delta(1)), rounded(delta(1)))


def test_one_flipped_bit_drops_it(tmp_path: Path) -> None:
    path = tmp_path / "residual"
    residual = Residual(path, LOSSY, LAYOUT)
    said(Outbox(tmp_path / "outbox", residual), 0, delta(0))
    residual.close()
    data = bytearray(path.read_bytes())
    data[-1] ^= 0x40  # of the last number's exponent: it becomes huge, or infinite, which no codec could write
    path.write_bytes(data)
    again = Residual(path, LOSSY, LAYOUT)
    assert torch.equal(said(Outbox(tmp_path / "outbox", again), 1, delta(1)), rounded(delta(1)))


def test_what_went_bad_on_the_disk_is_not_said_again(tmp_path: Path) -> None:
    residual = Residual(tmp_path / "residual", CodecSection(delta=Codec.FP32, feedback=1.0), LAYOUT)
    outbox = Outbox(tmp_path / "outbox", residual)
    put = outbox.put(LeaseId(0), Trained(delta(0), 1, 1.0, 0.0), Codec.FP32)
    data = outbox.vector(put).read_bytes()
    outbox.vector(put).write_bytes(data[:-4] + b"\x00\x00\x80\x7f")  # an infinity
    outbox.refused(put)
    assert torch.equal(said_exactly(outbox, residual, delta(1)), delta(1))


def said_exactly(outbox: Outbox, residual: Residual, value: Tensor) -> Tensor:
    residual.starts_from(1)
    put = outbox.put(LeaseId(1), Trained(value, 1, 1.0, 0.0), Codec.FP32)
    found = torch.zeros(SIZE)
    VectorReader(memoryview(outbox.vector(put).read_bytes()), Codec.FP32, SIZE).add_to(found)
    return found
