"""A receipt holds as it was signed and in no other way; a file of them tells which do, whatever else is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_at_home.errors import ConfigError, RetryCall
from diffusion_at_home.identity import WorkerId
from diffusion_at_home.kept_weights import KeptWeights
from diffusion_at_home.receipt import Receipt, Received, read_receipts
from diffusion_at_home.rpc.coordinator_pb2 import SubmitReply
from diffusion_at_home.signing_key import public_bytes
from worker.grant import LeaseId
from worker.outbox import Contribution
from worker.receipts import Receipts

calmly = settings(deadline=None)  # a busy machine is no mistake
RUN_KEY = Ed25519PrivateKey.generate()
PUBLIC = public_bytes(RUN_KEY).hex()
ME = WorkerId("0123456789abcdef")
RECEIVED = Received(run_id="tiny-0", contribution_id=7, worker_id=ME, lease_id=5, sha256="a" * 64, images=64, round=3)
CONTRIBUTION = Contribution(
    lease_id=LeaseId(5),
    sha256="a" * 64,
    size_bytes=100,
    images=64,
    train_ms=1500,
    mean_loss=0.25,
    lease_sha256="b" * 64,
    weights=KeptWeights.EXACT,
)


def receipt_of(received: Received, key: Ed25519PrivateKey = RUN_KEY) -> Receipt:
    return Receipt(received=received, public_key=PUBLIC, signature=key.sign(received.message()).hex())


def reply(**changes: Any) -> SubmitReply:
    honest = {"contribution_id": 7, "images": 64, "round": 3, "signature": RUN_KEY.sign(RECEIVED.message())}
    return SubmitReply(**(honest | changes))


@pytest.fixture
def receipts(tmp_path: Path) -> Receipts:
    return Receipts(tmp_path / "receipts" / "tiny-0.jsonl", run_id="tiny-0", worker_id=ME, public_key=PUBLIC)


def read(tmp_path: Path, key: str = "") -> list[str]:
    """What is wrong with each line."""
    return [line.problem for line in read_receipts(tmp_path / "receipts" / "tiny-0.jsonl", key)]


def test_message_is_as_documented() -> None:
    assert RECEIVED.message() == b"dah-receipt-v1\ntiny-0\n7\n0123456789abcdef\n5\n" + b"a" * 64 + b"\n64\n3"


@pytest.mark.parametrize(
    "change",
    [
        {"run_id": "tiny-1"},
        {"contribution_id": 8},
        {"worker_id": "f" * 16},
        {"lease_id": 6},
        {"sha256": "b" * 64},
        {"images": 65},
        {"round": 4},
    ],
    ids=lambda change: next(iter(change)),
)
def test_no_field_of_a_receipt_can_be_changed(change: dict[str, Any]) -> None:
    good = receipt_of(RECEIVED)
    assert good.holds
    assert not good.model_copy(update={"received": RECEIVED.model_copy(update=change)}).holds


def test_receipt_of_the_reply_is_kept_and_found_again(receipts: Receipts, tmp_path: Path) -> None:
    receipt = receipts.read(CONTRIBUTION, reply())
    receipts.keep(receipt)
    (line,) = read_receipts(tmp_path / "receipts" / "tiny-0.jsonl", PUBLIC)
    assert (line.receipt, line.problem) == (receipt_of(RECEIVED), "")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"signature": b""}, "out of bounds"),
        ({"signature": b"x" * 64}, "not signed by the run's key"),
        ({"signature": b"x" * 10_000}, "out of bounds"),
        ({"images": 63}, "not signed by the run's key"),
        ({"images": 65}, "out of bounds"),
        ({"images": 0}, "out of bounds"),
        ({"contribution_id": 0}, "out of bounds"),
        ({"contribution_id": 2**64 - 1}, "out of bounds"),
        ({"round": 0}, "out of bounds"),
        ({"signature": RUN_KEY.sign(RECEIVED.model_copy(update={"run_id": "tiny-1"}).message())}, "not signed"),
        ({"signature": RUN_KEY.sign(RECEIVED.model_copy(update={"worker_id": "f" * 16}).message())}, "not signed"),
    ],
)
def test_reply_that_is_no_receipt_is_asked_for_again(receipts: Receipts, change: dict[str, Any], said: str) -> None:
    with pytest.raises(RetryCall, match=said):
        receipts.read(CONTRIBUTION, reply(**change))


def test_receipt_that_is_there_twice_is_one(receipts: Receipts, tmp_path: Path) -> None:
    for _ in range(2):
        receipts.keep(receipts.read(CONTRIBUTION, reply()))
    assert read(tmp_path) == [""]


def test_line_that_a_dying_process_broke_off_spoils_no_other(receipts: Receipts, tmp_path: Path) -> None:
    path = tmp_path / "receipts" / "tiny-0.jsonl"
    receipts.keep(receipt_of(RECEIVED))
    receipts.keep(receipt_of(RECEIVED.model_copy(update={"contribution_id": 8})))
    path.write_bytes(path.read_bytes()[:-10])
    receipts.keep(receipt_of(RECEIVED.model_copy(update={"contribution_id": 9})))
    first, second, third = read(tmp_path)
    assert (first, third) == ("", "")
    assert second.startswith("is no receipt (")


def test_forged_and_foreign_receipts_are_named(receipts: Receipts, tmp_path: Path) -> None:
    forged = receipt_of(RECEIVED, Ed25519PrivateKey.generate())
    stranger = Ed25519PrivateKey.generate()
    foreign = receipt_of(RECEIVED, stranger).model_copy(update={"public_key": public_bytes(stranger).hex()})
    for receipt in (forged, foreign, receipt_of(RECEIVED)):
        receipts.keep(receipt)
    assert read(tmp_path, PUBLIC) == [
        f"is forged, its key {PUBLIC[:16]}... has not signed it",
        f"is by the foreign key {foreign.public_key}",
        "",
    ]


@calmly
@given(st.binary(max_size=500) | st.just(b"[" * 100_000))
def test_any_bytes_are_read_to_their_end(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(data)
    assert all(line.problem for line in read_receipts(path))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere cannot be read"):
        list(read_receipts(tmp_path / "nowhere"))
