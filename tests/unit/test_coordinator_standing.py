"""What verdicts come to: who is new, who pauses and for how long, what a worker has yet to be told."""

from __future__ import annotations

import pytest

from coordinator.records import Fault, LeaseId, Record, Verdict
from coordinator.standing import Standing, pause_rounds
from diffusion_at_home.config.trust import ScreeningSection
from tests.unit.desk import ANNA, BERT

SECTION = ScreeningSection()


def verdict(round_number: int, fault: Fault = Fault.NONE) -> Verdict:
    weight = 1.0 if fault is Fault.NONE else 0.0
    return Verdict(LeaseId(round_number), ANNA, round_number, weight, weight, 1.0, 0.5, fault)


def of(*verdicts: Verdict) -> Standing:
    standing = Standing(SECTION, {})
    standing.learn(verdicts)
    return standing


def test_a_worker_is_no_newcomer_once_enough_has_counted() -> None:
    standing = of(*(verdict(number) for number in range(1, SECTION.newcomer_leases)))
    assert standing.is_newcomer(ANNA)
    standing.learn([verdict(20, Fault.OPPOSED)])
    assert standing.is_newcomer(ANNA)
    standing.learn([verdict(21)])
    assert not standing.is_newcomer(ANNA)
    assert standing.is_newcomer(BERT)


def test_what_the_ledger_knows_counts_after_a_restart() -> None:
    standing = Standing(SECTION, {ANNA: Record(SECTION.newcomer_leases, 3, 7)})
    assert not standing.is_newcomer(ANNA)
    assert standing.rounds_left(ANNA, 8) == 10


def test_a_worker_pauses_after_three_faults_in_a_row_and_comes_back() -> None:
    standing = of(verdict(1, Fault.NOT_FINITE), verdict(2, Fault.OUTLIER))
    assert standing.rounds_left(ANNA, 2) == standing.rounds_left(ANNA, 3) == 0
    standing.learn([verdict(3, Fault.OPPOSED)])
    assert [standing.rounds_left(ANNA, number) for number in (4, 13, 14)] == [10, 1, 0]
    assert standing.rounds_left(BERT, 4) == 0


def test_what_counts_in_between_begins_anew() -> None:
    standing = of(verdict(1, Fault.OPPOSED), verdict(2, Fault.OPPOSED), verdict(3), verdict(4, Fault.OPPOSED))
    assert standing.rounds_left(ANNA, 5) == 0


@pytest.mark.parametrize(("in_a_row", "rounds"), [(0, 0), (2, 0), (3, 10), (4, 20), (6, 80), (10, 1000), (500, 1000)])
def test_each_further_fault_doubles_the_pause_up_to_a_limit(in_a_row: int, rounds: int) -> None:
    assert pause_rounds(Record(0, in_a_row, 1), SECTION.warnings) == rounds


def test_each_fault_is_told_once_and_those_of_a_silent_worker_are_bounded() -> None:
    standing = of(verdict(1), *(verdict(number, Fault.OPPOSED) for number in range(2, 500)))
    assert [told.round_number for told in standing.take_untold(ANNA)] == list(range(2, 102))
    assert standing.take_untold(ANNA) == []
    assert standing.take_untold(BERT) == []
