"""What two volunteers' deltas of one lease come to: who agrees is left alone, who is at odds with the others is found."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
from torch import Tensor

from coordinator.auditing import Docket
from coordinator.blobs import BlobStore
from coordinator.data_pool import DataPool
from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.problems import Problems
from coordinator.records import ActionKind, Audited, Contribution, Lease, LeaseId, LeaseState, Opinion, SecondOpinion
from coordinator.second_opinions import SecondOpinions, at_odds, opinion_of
from diffusion_at_home.audit.agreement import Agreement
from diffusion_at_home.audit.tolerances import tolerances
from diffusion_at_home.config.run import Codec
from diffusion_at_home.data.order import DataCursor, ShardRange
from diffusion_at_home.identity import WorkerId
from diffusion_at_home.wire.vector import encode_chunks, write_vector
from tests.unit.deltas import noise
from tests.unit.desk import ANNA, BERT, CARL, a_round, a_version, new_ledger
from tests.unit.one_change import accept, grant
from tests.unit.tiny_run import tiny_config

SIZE = 5000
POOL = DataPool(DataCursor(0, 1, 4))
DATA = (ShardRange(epoch=0, shard=2, start=0, count=16),)


class Bench:
    """A ledger with closed rounds of one lease each that two have trained."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self.ledger = ledger
        self.blobs = BlobStore(folder / "blobs", folder / "staging")
        self._thread = LedgerThread(ledger, Problems())
        self._numbers = count(1)

    def round(
        self, anna: Tensor, bert: Tensor, *, images: int = 16, workers: tuple[WorkerId, WorkerId] = (ANNA, BERT)
    ) -> int:
        """`anna` is handed in first, `bert` of what she has trained; returns the second lease's number."""
        number = next(self._numbers)
        self.ledger.open_round(a_round(number))
        first = self._hand_in(workers[0], number, anna, 16, LeaseId(0))
        second = self._hand_in(workers[1], number, bert, images, first)
        self.ledger.close_round(number, "target", [], POOL)
        self.ledger.publish(a_version(number, 16 * number))
        return second

    def form(self, *overrides: str) -> list[SecondOpinion]:
        config = tiny_config("audit.second_volunteer_share=0.05", *overrides)
        with closing(
            SecondOpinions(config=config, num_elements=SIZE, blobs=self.blobs, ledger=self._thread)
        ) as opinions:
            asyncio.run(opinions.form(self.ledger.newest_version().version))
        return self.ledger.second_opinions()

    def _hand_in(self, worker: WorkerId, number: int, delta: Tensor, images: int, second_of: LeaseId) -> LeaseId:
        out = io.BytesIO()
        write_vector(out, Codec.INT8, SIZE, encode_chunks(Codec.INT8, delta))
        data = out.getvalue()
        sha256 = hashlib.sha256(data).hexdigest()
        self.blobs.add_bytes(data)
        lease = Lease(LeaseId(0), worker, number - 1, DATA, 7, 16, 1e-3, LeaseState.ACTIVE, 1, second_of)
        lease_id = grant(self.ledger, lease, POOL).lease_id
        weight = 0.0 if second_of else float(images)
        given = Contribution(
            0, lease_id, worker, number, DATA[0], sha256, len(data), images, weight, 0.5, 1000, 10 * number, "",
            weights="exact",
        )  # fmt: skip
        accept(self.ledger, given, POOL)
        return lease_id


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with closing(new_ledger(tmp_path / "ledger.sqlite")) as ledger:
        yield Bench(tmp_path, ledger)


def test_two_honest_ones_agree_and_a_lazy_one_is_at_odds_with_the_first(bench: Bench) -> None:
    own = noise(1, SIZE)
    bench.round(own, own + 0.03 * noise(2, SIZE))
    bench.round(own, 0.5 * own)
    bench.round(own, noise(3, SIZE))
    bench.round(own, own, images=8)
    found = bench.form()
    assert [one.opinion for one in found] == [Opinion.AGREES, Opinion.DISAGREES, Opinion.DISAGREES, Opinion.NONE]
    assert bench.form() == found
    assert bench.ledger.actions() == []


def test_with_the_share_at_nothing_nothing_is_compared(bench: Bench) -> None:
    bench.round(noise(1, SIZE), noise(3, SIZE))
    assert bench.form("audit.second_volunteer_share=0.0") == []


def test_what_has_gone_convicts_nobody(bench: Bench) -> None:
    bench.round(noise(1, SIZE), noise(3, SIZE))
    for path in bench.blobs.folder.rglob("*"):
        if path.is_file():
            path.unlink()
    assert [one.opinion for one in bench.form()] == [Opinion.NONE]


def test_the_operator_s_auditor_trains_both_again(bench: Bench) -> None:
    own = noise(1, SIZE)
    for _ in range(60):
        bench.round(own, own)
    docket = Docket(bench.ledger, tiny_config().audit, random.Random(0))
    while (lease := docket.next()) is not None:
        worker = ANNA if lease % 2 else BERT
        docket.found(Audited(lease, worker, agrees=True, cosine=1.0, length_ratio=1.0, at_ms=lease), "")
    second = bench.round(own, 0.5 * own)
    while docket.next() is not None:  # whatever it may be drawn for
        pass
    bench.form()
    drawn = Docket(bench.ledger, tiny_config().audit, random.Random(0), since=second)
    assert [drawn.next() for _ in range(3)] == [second, second - 1, None]


def test_who_is_at_odds_with_several_who_agree_with_others_is_a_newcomer_again(bench: Bench) -> None:
    own = noise(1, SIZE)
    bench.round(own, own)
    for other in (ANNA, BERT):
        bench.round(own, -own, workers=(other, CARL))
    bench.form()
    (action,) = bench.ledger.actions()
    assert (action.kind, action.subject) == (ActionKind.DISTRUST, CARL)


def opinion(one: WorkerId, other: WorkerId, opinion: Opinion) -> SecondOpinion:
    return SecondOpinion(LeaseId(2), one, LeaseId(1), other, opinion, 0.5, 1.0, 1)


def test_nobody_is_judged_by_one_or_by_those_who_agree_with_nobody() -> None:
    yes, no = Opinion.AGREES, Opinion.DISAGREES
    assert at_odds([opinion(CARL, ANNA, no), opinion(ANNA, BERT, yes)], 2) == set()
    assert at_odds([opinion(CARL, ANNA, no), opinion(BERT, CARL, no)], 2) == set()
    both = [opinion(CARL, ANNA, no), opinion(BERT, CARL, no)]
    assert at_odds([*both, opinion(ANNA, BERT, yes)], 2) == {CARL}
    others = [WorkerId(f"{number:016}") for number in range(3)]
    assert at_odds([*both, opinion(ANNA, BERT, yes), *(opinion(CARL, other, yes) for other in others)], 2) == set()


@pytest.mark.parametrize(
    ("cosine", "kept", "expected"),
    [
        (0.999, ("exact", "exact"), Opinion.AGREES),
        (0.985, ("exact", "exact"), Opinion.NONE),
        (0.95, ("exact", "exact"), Opinion.DISAGREES),
        (0.95, ("exact", "rounded"), Opinion.NONE),
        (0.5, ("rounded", "exact"), Opinion.DISAGREES),
        (0.5, ("rounded", "rounded"), Opinion.NONE),
        (0.999, ("rounded", "rounded"), Opinion.AGREES),
    ],
)
def test_each_is_held_to_how_it_kept_its_weights(cosine: float, kept: tuple[str, str], expected: Opinion) -> None:
    assert opinion_of(Agreement(cosine, 1.0, exact=False), tolerances(Codec.INT8), *kept) is expected


def test_same_bits_agree() -> None:
    same = Agreement(1.0, 1.0, exact=True)
    assert opinion_of(same, tolerances(Codec.INT8), "rounded", "rounded") is Opinion.AGREES
