"""A chunk of a residual, shown on challenge: it fits honest training, and no lie about what was trained, sent or kept."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusion_at_home.audit.agreement import Tolerance
from diffusion_at_home.audit.residual import (
    Challenge,
    Checked,
    Misfit,
    ShownChunk,
    check_chunk,
    commitment,
    implied_delta,
    show,
)
from diffusion_at_home.config.run import Codec
from diffusion_at_home.wire.codecs import chunk_codec
from diffusion_at_home.wire.feedback import encode_with_feedback
from diffusion_at_home.wire.vector import CHUNK_ELEMENTS
from tests.unit.deltas import noise

FEEDBACK = 0.95
TOLERANCE = Tolerance(least_cosine=0.98, most_stretch=1.1)


@dataclass(frozen=True)
class Handed:
    """What a worker that trained `delta` on top of `before` hands in, and keeps."""

    delta: Tensor
    before: Tensor
    after: Tensor
    sent: list[Tensor]
    codec: Codec

    @classmethod
    def of(cls, delta: Tensor, before: Tensor, codec: Codec = Codec.SPARSE) -> Handed:
        after = before.clone()
        encoded = list(encode_with_feedback(codec, delta, after, FEEDBACK))
        lengths = [len(chunk) for chunk in torch.split(delta, CHUNK_ELEMENTS)]
        sent = [chunk_codec(codec).decode(memoryview(e), n) for e, n in zip(encoded, lengths, strict=True)]
        return cls(delta, before, after, sent, codec)

    def challenge(self, index: int) -> Challenge:
        roots = [commitment(vector).root for vector in (self.before, self.after)]
        return Challenge(index, len(self.delta), roots[0], roots[1], self.codec, FEEDBACK)

    def answer(self, index: int = 0, recomputed: Tensor | None = None, challenge: Challenge | None = None) -> Checked:
        """What comes of showing chunk `index` to somebody who recomputes `recomputed`."""
        whole = self.delta if recomputed is None else recomputed
        return check_chunk(
            challenge or self.challenge(index),
            sent=self.sent[index],
            recomputed=torch.split(whole, CHUNK_ELEMENTS)[index],
            before=show(self.before, commitment(self.before), index),
            after=show(self.after, commitment(self.after), index),
            tolerance=TOLERANCE,
        )


def honest(num_elements: int = 20_000, seed: int = 0, codec: Codec = Codec.SPARSE) -> Handed:
    return Handed.of(1e-3 * noise(seed, num_elements), 1e-2 * noise(seed + 1, num_elements), codec)


@settings(max_examples=40)
@given(
    st.integers(1, 30_000),
    st.integers(0, 10_000),
    st.sampled_from([Codec.SPARSE, Codec.SPARSE_WIDE, Codec.INT4]),
    st.sampled_from([0.0, 1e-3, 1.0, 1e3]),
)
def test_the_implied_delta_is_the_trained_one(num_elements: int, seed: int, codec: Codec, before: float) -> None:
    handed = Handed.of(noise(seed, num_elements), before * noise(seed + 1, num_elements), codec)
    implied = implied_delta(handed.sent[0], handed.before, handed.after, FEEDBACK)
    size = float(handed.before.abs().max() + handed.delta.abs().max())
    assert float((implied - handed.delta).abs().max()) <= 1e-6 * size
    if num_elements > 1 and before <= 1.0:
        assert handed.answer().misfit is Misfit.NONE


def test_every_chunk_of_a_longer_vector_fits() -> None:
    handed = honest(CHUNK_ELEMENTS + 5_000)
    for index in range(2):
        checked = handed.answer(index)
        assert checked.misfit is Misfit.NONE
        assert checked.agreement is not None
        assert checked.agreement.cosine > 0.9999


def test_training_that_was_not_done_does_not_fit() -> None:
    handed = honest()
    for instead in (torch.zeros_like(handed.delta), -handed.delta, 1.5 * handed.delta, 1e-3 * noise(9, 20_000)):
        lazy = Handed.of(instead, handed.before)
        assert lazy.answer(recomputed=handed.delta).misfit is Misfit.NOT_TRAINED


def test_poison_that_the_residual_takes_back_is_no_encoding() -> None:
    """Whoever sends what it likes, and keeps the difference, implies the right delta."""
    handed = honest()
    poison = chunk_codec(Codec.SPARSE).decode(memoryview(chunk_codec(Codec.SPARSE).encode(noise(5, 20_000))), 20_000)
    left = handed.sent[0] + handed.after
    cheat = replace(handed, sent=[poison], after=left - poison)
    assert torch.allclose(implied_delta(poison, cheat.before, cheat.after, FEEDBACK), handed.delta, atol=1e-5)
    assert cheat.answer().misfit is Misfit.NOT_ENCODED


def test_what_was_not_committed_to_is_not_taken() -> None:
    handed = honest()
    challenge = handed.challenge(0)
    for other in (
        replace(challenge, before_root=commitment(handed.before + 1).root),
        replace(challenge, after_root=bytes(32)),
        replace(challenge, after_root=challenge.before_root, before_root=challenge.after_root),
        replace(challenge, num_elements=CHUNK_ELEMENTS + 20_000),
    ):
        assert handed.answer(challenge=other).misfit is Misfit.NOT_COMMITTED


@pytest.mark.parametrize("data", [b"", b"\0" * 3, b"\0" * 80_004])
def test_a_chunk_of_another_length_is_not_taken(data: bytes) -> None:
    handed = honest()
    shown = ShownChunk(data, ())
    whole = show(handed.after, commitment(handed.after), 0)
    checked = check_chunk(
        handed.challenge(0),
        sent=handed.sent[0],
        recomputed=handed.delta,
        before=shown,
        after=whole,
        tolerance=TOLERANCE,
    )
    assert checked == Checked(Misfit.NOT_COMMITTED, None)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_residuals_that_are_not_finite_do_not_fit(value: float) -> None:
    handed = honest()
    after = handed.after.clone()
    after[7] = value
    assert replace(handed, after=after).answer().misfit is Misfit.NOT_FINITE
