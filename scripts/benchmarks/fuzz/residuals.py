"""What a worker shows of its residual, as the coordinator and every auditor read it."""

from __future__ import annotations

import io
import random
from typing import Final

import torch

from benchmarks.fuzz.messages import mutate_message
from benchmarks.fuzz.target import Read, Target, WronglyAccepted
from diffusion_at_home.audit.residual import (
    LEAF_ELEMENTS,
    Commitment,
    Misfit,
    Terms,
    check_shown,
    commitment_tree,
    num_leaves,
    show,
)
from diffusion_at_home.audit.shown import read_shown, write_shown
from diffusion_at_home.config.run import Codec
from diffusion_at_home.rpc import coordinator_pb2 as pb
from diffusion_at_home.wire.feedback import encode_with_feedback
from diffusion_at_home.wire.vector import VectorReader, write_vector

_NUM_ELEMENTS: Final = 2 * LEAF_ELEMENTS + 300
_FEEDBACK: Final = 0.95


def residuals() -> list[Target]:
    """Every leaf of an honest one, changed."""
    before, delta = (torch.randn(_NUM_ELEMENTS, generator=torch.Generator().manual_seed(seed)) for seed in range(2))
    after, file = before.clone(), io.BytesIO()
    encoded = encode_with_feedback(Codec.SPARSE, delta, after, _FEEDBACK)
    write_vector(file, Codec.SPARSE, _NUM_ELEMENTS, encoded)
    sent = VectorReader(memoryview(file.getvalue()), Codec.SPARSE, _NUM_ELEMENTS)
    trees = commitment_tree(before), commitment_tree(after)
    terms = Terms(_NUM_ELEMENTS, Codec.SPARSE, _FEEDBACK, Commitment(trees[0].root, trees[1].root))
    asked = range(num_leaves(_NUM_ELEMENTS))
    honest = [show(index, (before, trees[0]), (after, trees[1])) for index in asked]
    message = pb.ShownResidual.FromString(write_shown(honest))

    def check(data: bytes) -> None:
        leaves = read_shown(data)
        check_shown(leaves, asked, sent, terms)
        if leaves != honest:
            raise WronglyAccepted("other leaves than those that were committed to")

    def mutant(rng: random.Random) -> Read:
        data = mutate_message(message, rng)
        return lambda: check(data)

    return [Target("shown_residual", 3, mutant, (Misfit,))]
