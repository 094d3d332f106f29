"""Every refusal of the protocol has one meaning, and each meaning reaches the worker as a consequence."""

from __future__ import annotations

import grpc
import pytest

from diffusion_at_home.errors import DahError
from diffusion_at_home.refusals import LEFT_OUT, MEANINGS, short_name
from diffusion_at_home.rpc.coordinator_pb2 import Refusal

REFUSALS = [number for number in Refusal.values() if number != Refusal.REFUSAL_UNSPECIFIED]


def test_every_refusal_has_a_meaning_and_no_other_number_has() -> None:
    assert set(MEANINGS) | set(LEFT_OUT) == set(REFUSALS)


@pytest.mark.parametrize("refusal", MEANINGS, ids=short_name)
def test_a_refusal_is_an_error_on_both_sides(refusal: Refusal) -> None:
    meaning = MEANINGS[refusal]
    assert meaning.status is not grpc.StatusCode.OK
    assert issubclass(meaning.consequence, DahError)


def test_a_refusal_is_written_short() -> None:
    assert short_name(Refusal.REFUSAL_ROUND_CLOSED) == "round_closed"
