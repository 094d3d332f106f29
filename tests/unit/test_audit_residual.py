"""Leaves of a residual, shown on challenge: they fit honest training, and no lie about what was trained, sent or kept."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusion_at_home.audit.agreement import Tolerance, agreement
from diffusion_at_home.audit.residual import (
    LEAF_ELEMENTS,
    Commitment,
    Misfit,
    ShownLeaf,
    Terms,
    check_shown,
    commitment_tree,
    implied_delta,
    leaf_of,
    num_leaves,
    show,
)
from diffusion_at_home.config.run import Codec
from diffusion_at_home.wire.feedback import encode_with_feedback
from diffusion_at_home.wire.vector import CHUNK_ELEMENTS, VectorReader, encode_chunks, write_vector
from tests.unit.deltas import noise

FEEDBACK = 0.95
TOLERANCE = Tolerance(least_cosine=0.98, most_stretch=1.1)
CODECS = [Codec.SPARSE, Codec.SPARSE_WIDE, Codec.INT4, Codec.INT8]


@dataclass(frozen=True)
class Handed:
    """What a worker that trained `delta` on top of `before` hands in, and keeps."""

    delta: Tensor
    before: Tensor | None
    after: Tensor
    sent: VectorReader
    codec: Codec = Codec.SPARSE

    @classmethod
    def of(cls, delta: Tensor, before: Tensor | None, codec: Codec = Codec.SPARSE) -> Handed:
        after, file = torch.zeros_like(delta) if before is None else before.clone(), io.BytesIO()
        write_vector(file, codec, len(delta), encode_with_feedback(codec, delta, after, FEEDBACK))
        return cls(delta, before, after, VectorReader(memoryview(file.getvalue()), codec, len(delta)), codec)

    @property
    def terms(self) -> Terms:
        before = b"" if self.before is None else commitment_tree(self.before).root
        return Terms(len(self.delta), self.codec, FEEDBACK, Commitment(before, commitment_tree(self.after).root))

    def shown(self, *indices: int) -> list[ShownLeaf]:
        before = None if self.before is None else (self.before, commitment_tree(self.before))
        return [show(index, before, (self.after, commitment_tree(self.after))) for index in indices]

    def fits(self, *indices: int, recomputed: Tensor | None = None) -> bool:
        """Whether what it shows is what somebody recomputes."""
        implied = check_shown(self.shown(*indices), indices, self.sent, self.terms)
        whole = self.delta if recomputed is None else recomputed
        return TOLERANCE.allows(
            agreement((one, leaf_of(whole, index)) for one, index in zip(implied, indices, strict=True))
        )

    def misfit(self, leaves: Sequence[ShownLeaf], terms: Terms | None = None) -> str:
        with pytest.raises(Misfit) as raised:
            check_shown(leaves, [leaf.index for leaf in leaves], self.sent, terms or self.terms)
        return str(raised.value)


def sent_as(vector: Tensor, codec: Codec = Codec.SPARSE) -> VectorReader:
    """Encoded without anything that was left out."""
    file = io.BytesIO()
    write_vector(file, codec, len(vector), encode_chunks(codec, vector))
    return VectorReader(memoryview(file.getvalue()), codec, len(vector))


def decoded(vector: VectorReader) -> Tensor:
    found = torch.zeros(vector.num_elements)
    vector.copy_to(found)
    return found


def honest(num_elements: int = 20_000, seed: int = 0, codec: Codec = Codec.SPARSE) -> Handed:
    return Handed.of(1e-3 * noise(seed, num_elements), 1e-2 * noise(seed + 1, num_elements), codec)


@settings(max_examples=30)
@given(
    st.integers(1, 30_000),
    st.integers(0, 10_000),
    st.sampled_from(CODECS),
    st.sampled_from([None, 0.0, 1e-3, 1.0, 1e3]),
)
def test_what_an_honest_worker_shows_implies_what_it_trained(
    num_elements: int, seed: int, codec: Codec, size: float | None
) -> None:
    before = None if size is None else size * noise(seed + 1, num_elements)
    handed = Handed.of(noise(seed, num_elements), before, codec)
    every = range(num_leaves(num_elements))
    implied = torch.cat(check_shown(handed.shown(*every), every, handed.sent, handed.terms))
    largest = float(handed.delta.abs().max()) + (0 if before is None else float(before.abs().max()))
    assert float((implied - handed.delta).abs().max()) <= 1e-6 * largest


def test_a_leaf_is_encoded_alone_as_within_its_chunk() -> None:
    handed = honest(CHUNK_ELEMENTS + 5_000)
    last = num_leaves(len(handed.delta)) - 1
    assert handed.fits(0, 7, CHUNK_ELEMENTS // LEAF_ELEMENTS - 1, last - 1, last)


def test_training_that_was_not_done_does_not_fit() -> None:
    handed = honest()
    for instead in (torch.zeros_like(handed.delta), -handed.delta, 1.5 * handed.delta, 1e-3 * noise(9, 20_000)):
        assert not Handed.of(instead, handed.before).fits(1, 3, recomputed=handed.delta)


def test_poison_that_the_residual_takes_back_is_no_encoding() -> None:
    """Whoever sends what it likes, and keeps the difference, implies the right delta."""
    handed = honest()
    left = decoded(handed.sent) + handed.after
    for poison in (noise(5, 20_000), -left, left.roll(1), left + 3 * noise(6, 20_000) * left.abs().max()):
        sent = sent_as(poison)
        cheat = replace(handed, sent=sent, after=left - decoded(sent))
        implied = implied_delta(decoded(sent), cheat.before, cheat.after, FEEDBACK)
        assert torch.allclose(implied, handed.delta, atol=1e-5)
        assert "not what its codec makes" in cheat.misfit(cheat.shown(2))


@pytest.mark.parametrize("codec", CODECS)
def test_sending_nothing_or_half_of_what_there_is_is_no_encoding(codec: Codec) -> None:
    handed = honest(codec=codec)
    left = decoded(handed.sent) + handed.after
    for share in (0.0, 0.5, 2.0):
        sent = sent_as(share * left, codec)
        cheat = replace(handed, sent=sent, after=left - decoded(sent))
        assert "not what its codec makes" in cheat.misfit(cheat.shown(0))


def test_one_of_two_numbers_that_are_all_but_equal_may_be_kept() -> None:
    delta = noise(0, LEAF_ELEMENTS)
    order = delta.abs().argsort(descending=True)
    delta[order[67]] = -delta[order[66]] * (1 - 1e-6)  # the first that the codec leaves out
    fine = Handed.of(delta, None)
    swapped = decoded(fine.sent)
    first, second = int(order[66]), int(order[67])
    assert swapped[first] != 0 or not bool(swapped[second] != 0)
    swapped[second], swapped[first] = -swapped[first], 0.0
    other = replace(fine, sent=sent_as(swapped), after=delta - swapped)
    assert other.fits(0)


def test_what_was_not_committed_to_is_not_taken() -> None:
    handed = honest()
    terms, (leaf,) = handed.terms, handed.shown(1)
    assert handed.before is not None
    for wrong in (
        replace(terms, commitment=replace(terms.commitment, before=commitment_tree(handed.before + 1).root)),
        replace(terms, commitment=replace(terms.commitment, after=bytes(32))),
        replace(terms, commitment=Commitment(terms.commitment.after, terms.commitment.before)),
        replace(terms, num_elements=2 * 20_000),
    ):
        assert "not the one that was committed to" in handed.misfit([leaf], wrong)
    flipped = bytes([leaf.after[0] ^ 1]) + leaf.after[1:]
    others = handed.shown(2)[0]
    for lie in (
        replace(leaf, after=flipped),
        replace(leaf, before=leaf.after, before_proof=leaf.after_proof),
        replace(leaf, index=2),
        replace(leaf, after_proof=others.after_proof),
        replace(leaf, before_proof=()),
        replace(leaf, after_proof=leaf.after_proof * 1000),
        replace(leaf, before=b"", before_proof=()),
        replace(leaf, after=leaf.after + bytes(4)),
        replace(leaf, after=leaf.after[:-1]),
    ):
        assert "not the one that was committed to" in handed.misfit([lie])


def test_other_leaves_than_those_that_were_asked_for_are_not_taken() -> None:
    handed = honest()
    for shown in ([], handed.shown(0), handed.shown(1, 0), handed.shown(0, 0), handed.shown(0, 1, 2)):
        with pytest.raises(Misfit, match="not those that were asked for"):
            check_shown(shown, [0, 1], handed.sent, handed.terms)


def test_a_residual_that_was_dropped_is_not_shown() -> None:
    handed = Handed.of(noise(0, 20_000), None)
    (leaf,) = handed.shown(1)
    assert (leaf.before, leaf.before_proof) == (b"", ())
    assert handed.fits(1)
    assert "where none was added" in handed.misfit([replace(leaf, before=leaf.after, before_proof=leaf.after_proof)])


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_residuals_that_are_not_finite_do_not_fit(value: float) -> None:
    handed = honest()
    after = handed.after.clone()
    after[7] = value
    wrong = replace(handed, after=after)
    assert "infinite or none" in wrong.misfit(wrong.shown(0))
    large = replace(handed, after=torch.full_like(after, 3e38), before=torch.zeros_like(after))
    assert large.misfit(large.shown(0))
