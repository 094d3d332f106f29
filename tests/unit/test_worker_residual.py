"""What encoding leaves out of one delta is said by the next."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffusion_at_home.audit.residual import Commitment, Terms, check_shown, num_leaves
from diffusion_at_home.config.run import Codec, CodecSection
from diffusion_at_home.errors import LeaseLost, RetryCall
from diffusion_at_home.kept_weights import KeptWeights
from diffusion_at_home.wire.codecs import chunk_codec
from diffusion_at_home.wire.layout import Layout, Slot
from diffusion_at_home.wire.vector import CHUNK_ELEMENTS, VectorReader
from worker.grant import LeaseId
from worker.outbox import WRONG_RESIDUAL, Contribution, Outbox
from worker.residual import Residual
from worker.trainer import Trained

SIZE = CHUNK_ELEMENTS + 1000
LAYOUT = Layout((Slot("weight", (SIZE,), 0, SIZE),))
LOSSY = CodecSection(delta=Codec.INT8, feedback=0.5)


def delta(seed: int) -> Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(seed))


def said(outbox: Outbox, lease: int, value: Tensor) -> Tensor:
    """What the other side reads of a lease's delta, which counts."""
    handed_in = put(outbox, lease, value)
    found = torch.zeros(SIZE)
    VectorReader(memoryview(outbox.vector(handed_in).read_bytes()), LOSSY.delta, SIZE).add_to(found)
    outbox.received(handed_in)
    return found


def put(outbox: Outbox, lease: int, value: Tensor) -> Contribution:
    return outbox.put(LeaseId(lease), "0" * 64, Trained(value, 1, 1.0, 0.0, KeptWeights.EXACT), LOSSY.delta)


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


def test_what_is_refused_is_as_if_it_had_never_been(tmp_path: Path) -> None:
    """Its data goes to others, who say it."""
    residual = Residual(tmp_path / "residual", LOSSY, LAYOUT)
    outbox = Outbox(tmp_path / "outbox", residual)
    said(outbox, 0, delta(0))
    outbox.refused(put(outbox, 1, delta(1)), LeaseLost("too late", "round_closed"))
    assert outbox.recover() == []
    assert torch.equal(said(outbox, 2, delta(2)), naive([delta(0), delta(2)], 0.5)[1])


def test_what_the_run_calls_wrong_is_dropped(tmp_path: Path) -> None:
    """It was restored from a backup, and does not know the last contribution."""
    outbox = Outbox(tmp_path / "outbox", Residual(tmp_path / "residual", LOSSY, LAYOUT))
    said(outbox, 0, delta(0))
    outbox.refused(put(outbox, 1, delta(1)), LeaseLost("another one", WRONG_RESIDUAL))
    third = put(outbox, 2, delta(2))
    assert third.residual_before == ""
    assert outbox.show(third, [0])[0].before == b""


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


# -- what is committed to, and shown -----------------------------------------------------------------------------------


def fits(outbox: Outbox, contribution: Contribution, value: Tensor) -> None:
    """It is committed to, shown and implied as it is."""
    every = range(num_leaves(SIZE))
    roots = Commitment.from_hex(contribution.residual_before, contribution.residual_after)
    sent = VectorReader(memoryview(outbox.vector(contribution).read_bytes()), LOSSY.delta, SIZE)
    terms = Terms(SIZE, LOSSY.delta, LOSSY.feedback, roots)
    implied = check_shown(outbox.show(contribution, every), every, sent, terms)
    assert torch.allclose(torch.cat(implied), value, atol=1e-5)


def test_each_contribution_is_committed_to_what_the_last_one_left_and_can_show_it(tmp_path: Path) -> None:
    outbox, last = Outbox(tmp_path / "outbox", Residual(tmp_path / "residual", LOSSY, LAYOUT)), ""
    for lease in range(3):
        contribution = put(outbox, lease, delta(lease))
        assert contribution.residual_before == last
        fits(outbox, contribution, delta(lease))
        last = contribution.residual_after
        outbox.received(contribution)


def test_a_restart_between_handing_in_and_showing_shows_the_same(tmp_path: Path) -> None:
    path = tmp_path / "residual"
    residual = Residual(path, LOSSY, LAYOUT)
    outbox = Outbox(tmp_path / "outbox", residual)
    said(outbox, 0, delta(0))
    handed_in = put(outbox, 1, delta(1))
    residual.close()
    again = Outbox(tmp_path / "outbox", Residual(path, LOSSY, LAYOUT))
    assert again.recover() == [handed_in]
    fits(again, handed_in, delta(1))
    again.received(handed_in)
    assert torch.equal(said(again, 2, delta(2)), naive([delta(0), delta(1), delta(2)], 0.5)[2])


def test_a_process_that_died_leaves_nothing_to_show_and_the_next_begins_with_none(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox", Residual(tmp_path / "residual", LOSSY, LAYOUT))
    said(outbox, 0, delta(0))
    handed_in = put(outbox, 1, delta(1))
    again = Outbox(tmp_path / "outbox", Residual(tmp_path / "residual", LOSSY, LAYOUT))
    with pytest.raises(LeaseLost, match="lost with the last process"):
        again.show(handed_in, [0])
    again.received(handed_in)  # or the run had it already
    assert put(again, 2, delta(2)).residual_before == ""


def test_leaves_that_there_are_none_of_are_not_shown(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox", Residual(tmp_path / "residual", LOSSY, LAYOUT))
    handed_in = put(outbox, 0, delta(0))
    for index in (num_leaves(SIZE), 2**64 - 1):
        with pytest.raises(RetryCall):
            outbox.show(handed_in, [index])


def test_the_trainer_may_use_the_delta_s_memory_again_once_there_is_a_receipt(tmp_path: Path) -> None:
    outbox, value = Outbox(tmp_path / "outbox", Residual(tmp_path / "residual", LOSSY, LAYOUT)), delta(0)
    for lease in range(3):
        handed_in = outbox.put(LeaseId(lease), "0" * 64, Trained(value, 1, 1.0, 0.0, KeptWeights.EXACT), LOSSY.delta)
        outbox.received(handed_in)
        value.copy_(delta(lease + 1))
    assert torch.equal(said(outbox, 3, value), naive([delta(seed) for seed in range(4)], 0.5)[3])
