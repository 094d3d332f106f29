"""What pages are told of the ledger is what a count of its rows, one by one, comes to."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from benchmarks.pages.made_up import Extent, MadeUp, make, worker_id

from coordinator.ledger import Ledger
from coordinator.ledger_move import move_to_server
from coordinator.records import Evaluation, Fault, Version, Weights
from coordinator.run_folder import RunFolder
from coordinator.web.views.contributors import Period, contributors
from tests.postgres_server import PostgresServer

EXTENT = Extent(workers=40, rounds=60, contributions=1500, live=4, shards=20, checkpoints=3, actions=30)
DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeUp:
    return make(tmp_path_factory.mktemp("pages") / "run", EXTENT)


@pytest.fixture
def ledger(made: MadeUp) -> Iterator[Ledger]:
    with closing(Ledger(made.folder.ledger, read_only=True)) as opened:
        yield opened


class Rows:
    """The ledger rebuilt from nothing: every row, and plain loops."""

    def __init__(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as raw:
            raw.row_factory = sqlite3.Row
            self.given = [dict(row) for row in raw.execute("SELECT * FROM contributions")]
            faults = {row["lease_id"]: row["fault"] for row in raw.execute("SELECT * FROM verdicts")}
            disagree = {row["lease_id"] for row in raw.execute("SELECT * FROM audits") if not row["agrees"]}
            newest = max(row["version"] for row in raw.execute("SELECT * FROM versions"))
            workers = raw.execute("SELECT * FROM workers").fetchall()
            self.names = {row["worker_id"]: row["display_name"] for row in workers}
            self.teams = {row["worker_id"]: row["team"] for row in workers}
        self.faults = faults
        self.counts = [
            one
            for one in self.given
            if one["round_number"] <= newest and not faults.get(one["lease_id"]) and one["lease_id"] not in disagree
        ]


def test_credit_equals_the_rows_one_by_one(made: MadeUp, ledger: Ledger) -> None:
    rows = Rows(made.folder.ledger)
    times = sorted(one["accepted_at_ms"] for one in rows.given)
    month, day = times[len(times) // 3], times[-len(times) // 5]
    found = {credit.worker_id: credit for credit in ledger.credits(month_since_ms=month, day_since_ms=day)}
    assert set(found) == {one["worker_id"] for one in rows.counts}
    for worker, credit in found.items():
        theirs = [one for one in rows.counts if one["worker_id"] == worker]
        assert credit.images == sum(one["images"] for one in theirs)
        assert credit.month_images == sum(one["images"] for one in theirs if one["accepted_at_ms"] >= month)
        assert credit.day_images == sum(one["images"] for one in theirs if one["accepted_at_ms"] >= day)
        assert credit.contributions == len(theirs)
        closed = [one for one in rows.given if one["worker_id"] == worker and one["round_number"] <= EXTENT.rounds]
        assert credit.last_at_ms == max(one["accepted_at_ms"] for one in closed)
    assert {worker: credit.images for worker, credit in found.items()} == ledger.images_by_worker(EXTENT.rounds)
    assert 0 < len(rows.counts) < len(rows.given)


def test_the_page_of_contributors_adds_up_to_the_same(made: MadeUp, ledger: Ledger) -> None:
    rows = Rows(made.folder.ledger)
    credited = ledger.credits(month_since_ms=0, day_since_ms=2**60)
    view = contributors(credited, "all", "name", "", "")
    by_name: Counter[str] = Counter()
    for one in rows.counts:
        by_name[rows.names[one["worker_id"]] or one["worker_id"]] += one["images"]
    assert view.images == sum(one["images"] for one in rows.counts) == sum(row.images for row in view.rows)
    assert {row.name or row.worker_id: row.images for row in view.rows} == dict(by_name)
    assert [row.images for row in view.rows] == sorted(by_name.values(), reverse=True)
    assert [row.rank for row in view.rows] == list(range(1, len(by_name) + 1))
    assert contributors(credited, "month", "name", "", "").images == view.images
    assert contributors(credited, "day", "name", "", "").rows == ()
    assert contributors(credited, "nonsense", "name", "", "x").period is Period.ALL


def test_teams_add_up_to_the_rows_of_their_workers(made: MadeUp, ledger: Ledger) -> None:
    rows = Rows(made.folder.ledger)
    credited = ledger.credits(month_since_ms=0, day_since_ms=0)
    by_team: Counter[str] = Counter()
    for one in rows.counts:
        by_team[rows.teams[one["worker_id"]]] += one["images"]
    del by_team[""]  # of none
    view = contributors(credited, "all", "team", "", "")
    assert {row.name: row.images for row in view.rows} == dict(by_team) != {}
    assert view.images == sum(by_team.values())


def test_a_teams_days_and_workers_equal_their_rows(made: MadeUp, ledger: Ledger) -> None:
    rows = Rows(made.folder.ledger)
    theirs = [one for one in rows.counts if rows.teams[one["worker_id"]] == "team 1"]
    days = Counter[int]()
    for one in theirs:
        days[one["accepted_at_ms"] // DAY_MS] += one["images"]
    assert {day.day: day.images for day in ledger.days_of_team("team 1", 0)} == dict(days)
    newest = max(days)
    assert {day.day: day.images for day in ledger.days_of_team("team 1", newest)} == {newest: days[newest]}
    found = ledger.team("team 1")
    assert found is not None
    assert found.workers == sum(team == "team 1" for team in rows.teams.values())
    assert ledger.team("nobody") is None
    assert ledger.days_of_team("nobody", 0) == []


def test_one_is_found_by_part_of_a_name_and_by_its_id(ledger: Ledger) -> None:
    credited = ledger.credits(month_since_ms=0, day_since_ms=0)
    found = contributors(credited, "all", "name", "VOLUNTEER 1", "")
    assert {row.name for row in found.rows} == {row.name for row in found.rows if "volunteer 1" in row.name} != set()
    (nameless,) = contributors(credited, "all", "name", worker_id(8), "").rows
    assert (nameless.name, nameless.worker_id) == ("", worker_id(8))


def test_a_workers_days_leases_and_faults_equal_its_rows(made: MadeUp, ledger: Ledger) -> None:
    rows, worker = Rows(made.folder.ledger), worker_id(0)
    theirs = [one for one in rows.counts if one["worker_id"] == worker]
    days = Counter[int]()
    for one in theirs:
        days[one["accepted_at_ms"] // DAY_MS] += one["images"]
    assert {day.day: day.images for day in ledger.days_of(worker)} == dict(days)
    given = [one for one in rows.given if one["worker_id"] == worker]
    assert ledger.lease_ends(worker) == {"submitted": len(given)}
    faults = Counter(Fault(rows.faults[one["lease_id"]]) for one in given if rows.faults[one["lease_id"]])
    assert ledger.left_out_of(worker) == dict(faults) != {}
    latest = ledger.latest_left_out(worker, 2)
    assert [one.lease_id for one in latest] == sorted((one.lease_id for one in latest), reverse=True)
    assert len(latest) == min(2, sum(faults.values()))


READS: tuple[Callable[[Ledger], object], ...] = (
    lambda ledger: {credit.worker_id: credit for credit in ledger.credits(month_since_ms=0, day_since_ms=2**60)},
    lambda ledger: [ledger.worker_row(worker_id(0)), ledger.workers_named("volunteer 1", 5)],
    lambda ledger: [ledger.days_of(worker_id(0)), ledger.lease_ends(worker_id(0)), ledger.audits_of(worker_id(0))],
    lambda ledger: [ledger.left_out_of(worker_id(0)), ledger.latest_left_out(worker_id(0), 5), ledger.left_out()],
    lambda ledger: [ledger.created_at_ms(), ledger.pool(), ledger.under_way(), ledger.totals(), ledger.num_actions()],
    lambda ledger: [ledger.latest_versions(3), ledger.versions(), ledger.rollbacks(0), ledger.latest_round()],
    lambda ledger: [ledger.evaluated_versions(), ledger.evaluations_of(ledger.evaluated_versions())],
    lambda ledger: [ledger.judgements(), ledger.judged(), ledger.sheets(), ledger.judging_files()],
    lambda ledger: [ledger.checkpoints(), ledger.exported(), ledger.failed_judgements(), ledger.anchor()],
    lambda ledger: [ledger.track_records(), ledger.audits(), ledger.images_by_worker(EXTENT.rounds)],
    lambda ledger: [ledger.contributions(1), ledger.counted(1), ledger.verdicts(1), ledger.seen_before(1)],
    lambda ledger: [ledger.closed_contributions(0, 9), ledger.handed_in(1, 0, 9), ledger.newest_residual(worker_id(0))],
    lambda ledger: [sorted(ledger.blob_names()), ledger.held_deltas()],
    lambda ledger: [ledger.actions(), ledger.latest_actions(20, 5), ledger.pending_rollback(), set(ledger.workers())],
)


def test_a_server_says_the_same(made: MadeUp, ledger: Ledger, postgres: PostgresServer, tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(made.folder.root, tmp_path / "run"))
    move_to_server(folder, postgres.new_place())
    with closing(Ledger(folder.ledger, read_only=True)) as there:
        for read in READS:
            assert plain(read(there)) == plain(read(ledger))


def plain(found: object) -> object:
    """With types, as a sum must be a whole number in both; without an order where there is none."""
    if isinstance(found, Mapping):
        return sorted((repr(key), plain(value)) for key, value in found.items())
    if isinstance(found, set):
        return sorted(map(repr, found))
    return [plain(one) for one in found] if isinstance(found, list) else repr(found)


def test_nobody_and_nothing_are_answered_too(ledger: Ledger) -> None:
    assert ledger.worker_row("f" * 16) is None
    assert ledger.workers_named("nobody", 5) == []
    assert (ledger.days_of("f" * 16), ledger.lease_ends("f" * 16), ledger.left_out_of("f" * 16)) == ([], {}, {})
    assert ledger.audits_of("f" * 16) == (0, 0)


def test_actions_come_by_the_page_the_newest_first(ledger: Ledger) -> None:
    assert ledger.num_actions() == EXTENT.actions
    pages = [ledger.latest_actions(20, offset) for offset in (0, 20, 40)]
    assert [action.action_id for page in pages for action in page] == list(range(EXTENT.actions, 0, -1))
    assert {action.subject for action in ledger.latest_actions(9, 0, subject=worker_id(1))} == {worker_id(1)}


def test_what_a_rollback_left_behind_is_on_no_curve(tmp_path: Path) -> None:
    made = make(tmp_path / "run", Extent(workers=1, rounds=0, contributions=0, live=0, checkpoints=0, actions=0))
    with closing(Ledger(made.folder.ledger)) as ledger:
        for number, back_to in ((1, None), (2, None), (3, 1), (4, None)):
            ledger.publish(Version(number, number, f"{number:064}", "", 0, "", 0, number, back_to))
            if back_to is None:
                ledger.add_evaluations([Evaluation(number, which, number, 1.0, (1.0,)) for which in Weights])
        versions = ledger.evaluated_versions()
        assert versions == [0, 1, 3, 4]
        found = ledger.evaluations_of(versions)
        assert [one.evaluation.version for one in found] == [0, 0, 1, 1, 3, 3, 4, 4]
        assert [one.at_ms for one in found][4:] == [3, 3, 4, 4]
