"""The ledger: the durable truth of a run. What a method returns from is on disk.

Synchronous; every method is one transaction, also one that only reads. The loop calls it through one thread, so
transactions never interleave. Numbers are never updated in place where they can be summed: credit is the sum of
contributions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from coordinator import tables
from coordinator.books import Changes
from coordinator.data_pool import DataPool
from coordinator.lease_queries import LeaseQueries
from coordinator.open_ledger import new_tables
from coordinator.opinion_queries import OpinionQueries
from coordinator.page_queries import PageQueries
from coordinator.records import (
    Action,
    ActionKind,
    Anchor,
    Audited,
    Checkpoint,
    Contribution,
    Counted,
    Evaluation,
    FailedJudgement,
    Fault,
    HeldDelta,
    Judged,
    Judgement,
    Lease,
    LeaseId,
    LeaseState,
    Record,
    RefusedCalls,
    Round,
    RoundState,
    Totals,
    Verdict,
    Version,
    Withdrawn,
    Worker,
    now_ms,
)
from diffusion_at_home.identity import WorkerId


class Ledger(LeaseQueries, PageQueries, OpinionQueries):
    """One run's tables."""

    @classmethod
    def create(cls, path: Path, *, run_id: str, spec_sha256: str, pool: DataPool) -> Ledger:
        """A new ledger with nothing in it but the run."""
        values = {"run_id": run_id, "spec_sha256": spec_sha256, "pool": pool.to_json()}
        with new_tables(path) as tx:
            tx.execute(sa.insert(tables.run).values(id=1, created_at_ms=now_ms(), **values))
        return cls(path)

    # -- the run ------------------------------------------------------------------------------------------------

    def run_id(self) -> str:
        """The run's id."""
        return str(self._scalar(sa.select(tables.run.c.run_id)))

    def spec_sha256(self) -> str:
        """Name of the blob of the run's specification."""
        return str(self._scalar(sa.select(tables.run.c.spec_sha256)))

    def pool(self) -> DataPool:
        """What of the data is not leased."""
        return DataPool.from_json(self._scalar(sa.select(tables.run.c.pool)))

    def skip_numbers(self, count: int) -> None:
        """Never give the next `count` numbers to a lease or a contribution."""
        with self._begin() as tx:
            counted = self._database.counted(tx)
            for table in (tables.leases, tables.contributions):
                (key,) = table.primary_key
                highest = tx.execute(sa.select(sa.func.max(key))).scalar_one() or 0
                self._database.count_on(tx, table.name, max(highest, counted.get(table.name, 0)) + count)

    # -- workers ------------------------------------------------------------------------------------------------

    def join(self, *workers: Worker) -> None:
        """Store the (new) session of each worker; the first `joined_at_ms` stays."""
        with self._begin() as tx:
            for worker in workers:
                row = dataclasses.asdict(worker)
                changed = {name: value for name, value in row.items() if name not in ("worker_id", "joined_at_ms")}
                statement = self._insert(tables.workers).values(row)
                tx.execute(statement.on_conflict_do_update(index_elements=["worker_id"], set_=changed))

    def workers(self) -> list[Worker]:
        """All who ever joined."""
        return self._records(Worker, sa.select(tables.workers))

    def images_by_worker(self, last_round: int) -> dict[WorkerId, int]:
        """Images of each worker that has any that counted, up to and with round `last_round`."""
        rows = tables.contributions.c
        left_out = sa.select(tables.verdicts.c.lease_id).where(tables.verdicts.c.fault != Fault.NONE)
        disagreed = sa.select(tables.audits.c.lease_id).where(~tables.audits.c.agrees)
        query = sa.select(rows.worker_id, sa.func.sum(rows.images)).where(rows.round_number <= last_round)
        query = query.where(rows.lease_id.not_in(left_out), rows.lease_id.not_in(disagreed)).group_by(rows.worker_id)
        with self._begin() as tx:
            return {WorkerId(worker): int(images) for worker, images in tx.execute(query)}

    # -- what the operator does ---------------------------------------------------------------------------------

    def add_action(self, action: Action) -> Action:
        """Note it, and give it its number. The coordinator, if another process is that, sees it within a second or two."""
        with self._begin() as tx:
            key = tx.execute(sa.insert(tables.actions).values(_row(action, "action_id"))).inserted_primary_key
            if action.kind is ActionKind.REVOKE:
                no_token = {"token_sha256": f"revoked {action.subject}"}  # the hash of nothing
                tx.execute(
                    sa.update(tables.workers).where(tables.workers.c.worker_id == action.subject).values(no_token)
                )
        assert key is not None
        return dataclasses.replace(action, action_id=int(key[0]))

    def actions(self, since: int = 0) -> list[Action]:
        """All after number `since`, in order."""
        rows = tables.actions
        return self._records(Action, sa.select(rows).where(rows.c.action_id > since).order_by(rows.c.action_id))

    def pending_rollback(self) -> Action | None:
        """The newest order to go back that no version carries out, nor any that came after it."""
        done, rows = sa.select(sa.func.max(tables.versions.c.action_id)), tables.actions.c
        query = (
            sa.select(tables.actions).where(rows.kind == ActionKind.ROLLBACK).order_by(rows.action_id.desc()).limit(1)
        )
        found = self._records(Action, query)
        return found[0] if found and found[0].action_id > (self._scalar(done) or 0) else None

    # -- leases and contributions -------------------------------------------------------------------------------

    def store(self, changes: Changes, pool: DataPool) -> Changes:
        """Store how leases ended, what was accepted and what was granted, and the pool after all of it: all or nothing.

        Returns the changes with their numbers. A second contribution of a lease is a bug of the caller, which the table
        refuses.
        """
        with self._begin() as tx:
            for lease_id, state in changes.ended:
                self._end(tx, lease_id, state)
            accepted = [self._accept(tx, contribution) for contribution in changes.accepted]
            granted = list[Lease]()
            for lease in changes.granted:
                granted.append(self._grant(tx, _numbered(lease, granted)))
            self._set_pool(tx, pool)
        return Changes(changes.ended, accepted, granted)

    def lease(self, lease_id: LeaseId) -> Lease | None:
        """A lease by its number, which may be any that travels: those beyond a database's integers are of nobody."""
        if lease_id.bit_length() > 63:
            return None
        found = self._records(Lease, sa.select(tables.leases).where(tables.leases.c.lease_id == lease_id))
        return found[0] if found else None

    def active_leases(self) -> list[Lease]:
        """All that are neither handed in nor given up."""
        rows = tables.leases.c
        query = sa.select(tables.leases).where(rows.state == LeaseState.ACTIVE)
        return self._records(Lease, query.order_by(rows.lease_id))

    def missed_leases(self, base_version: int) -> list[Lease]:
        """All from `base_version` that their round closed without."""
        rows = tables.leases.c
        query = sa.select(tables.leases).where(rows.state == LeaseState.MISSED, rows.base_version == base_version)
        return self._records(Lease, query.order_by(rows.lease_id))

    def contribution_of(self, lease_id: LeaseId) -> Contribution | None:
        """What was accepted for a lease."""
        query = sa.select(tables.contributions).where(tables.contributions.c.lease_id == lease_id)
        found = self._records(Contribution, query)
        return found[0] if found else None

    def contributions(self, round_number: int) -> list[Contribution]:
        """What counts in a round, in the order of summation: by the data's order, then by number."""
        query = sa.select(tables.contributions).where(tables.contributions.c.round_number == round_number)
        found = self._records(Contribution, query)
        return sorted(found, key=lambda c: (c.first_range, c.contribution_id))

    def counted(self, round_number: int) -> list[Counted]:
        """What makes a round's version, in the order of summation, and how much of it counts."""
        rows = tables.verdicts.c
        with self._begin() as tx:
            found = tx.execute(
                sa.select(rows.lease_id, rows.weight, rows.scale).where(rows.round_number == round_number)
            )
            verdicts = {lease_id: (weight, scale) for lease_id, weight, scale in found}
        given = [(c, *verdicts.get(c.lease_id, (c.weight, 1.0))) for c in self.contributions(round_number)]
        return [Counted(contribution, weight, scale) for contribution, weight, scale in given if weight > 0]

    def totals(self) -> Totals:
        """The whole run in numbers."""
        given, active = tables.contributions.c, tables.leases.c.state == LeaseState.ACTIVE
        counts = {
            "contributions": sa.select(sa.func.count(given.contribution_id)),
            "contributors": sa.select(sa.func.count(given.worker_id.distinct())),
            "uplink_bytes": sa.select(sa.func.sum(given.size_bytes)),
            "downlink_bytes": sa.select(sa.func.sum(tables.versions.c.update_bytes)),
            "joined": sa.select(sa.func.count(tables.workers.c.worker_id)),
            "active_leases": sa.select(sa.func.count(tables.leases.c.lease_id)).where(active),
        }
        with self._begin() as tx:
            return Totals(**{name: int(tx.execute(query).scalar_one() or 0) for name, query in counts.items()})

    # -- how far workers are believed ---------------------------------------------------------------------------

    def seen_before(self, round_number: int) -> set[LeaseId]:
        """The leases of a round's contributions whose bytes an earlier one has, of whatever round."""
        now, before = tables.contributions.alias(), tables.contributions.alias()
        of_now, of_before = tables.leases.alias(), tables.leases.alias()
        same = sa.and_(now.c.sha256 == before.c.sha256, before.c.contribution_id < now.c.contribution_id)
        both = now.join(before, same)
        both = both.join(of_now, of_now.c.lease_id == now.c.lease_id)
        both = both.join(of_before, of_before.c.lease_id == before.c.lease_id)
        query = (
            sa.select(now.c.lease_id)
            .select_from(both)
            .where(
                now.c.round_number == round_number,
                # Two who train one lease on like machines hand in the same bytes.
                of_now.c.second_of != before.c.lease_id,
                of_before.c.second_of != now.c.lease_id,
            )
        )
        with self._begin() as tx:
            return {LeaseId(lease_id) for lease_id in tx.execute(query).scalars()}

    def add_verdicts(self, verdicts: Sequence[Verdict], pool: DataPool | None = None) -> None:
        """Store how deltas count, and the pool that has the data again of those that do not; one for a lease, for ever."""
        with self._begin() as tx:
            for verdict in verdicts:
                tx.execute(self._insert(tables.verdicts).values(dataclasses.asdict(verdict)).on_conflict_do_nothing())
            if pool is not None:
                self._set_pool(tx, pool)

    def verdicts(self, round_number: int) -> list[Verdict]:
        """Of a round's leases, in the order of their numbers."""
        rows = tables.verdicts
        query = sa.select(rows).where(rows.c.round_number == round_number).order_by(rows.c.lease_id)
        return self._records(Verdict, query)

    def left_out(self) -> dict[str, int]:
        """How many deltas did not count, by reason."""
        rows = tables.verdicts.c
        query = sa.select(rows.fault, sa.func.count()).where(rows.fault != Fault.NONE).group_by(rows.fault)
        with self._begin() as tx:
            return {fault.value: int(count) for fault, count in tx.execute(query.order_by(rows.fault))}

    def track_records(self) -> dict[WorkerId, Record]:
        """Of all workers that have handed anything in."""
        given, rows = tables.contributions.c, tables.verdicts.c
        is_fault = rows.fault != Fault.NONE
        faulty = sa.select(rows.lease_id).where(is_fault)
        counts = sa.select(given.worker_id, sa.func.count(), sa.func.max(given.lease_id)).group_by(given.worker_id)
        distrusted = (
            sa.select(tables.actions.c.subject, sa.func.max(tables.actions.c.at_ms).label("at_ms"))
            .where(tables.actions.c.kind == ActionKind.DISTRUST)
            .group_by(tables.actions.c.subject)
            .subquery()
        )
        counts = counts.outerjoin(distrusted, distrusted.c.subject == given.worker_id)
        counts = counts.where(given.lease_id.not_in(faulty))
        counts = counts.where(given.accepted_at_ms > sa.func.coalesce(distrusted.c.at_ms, 0))
        with self._begin() as tx:
            counted = {WorkerId(worker): (number, last) for worker, number, last in tx.execute(counts)}
            faults: dict[WorkerId, list[tuple[int, int]]] = {}
            for worker, lease_id, round_number in tx.execute(
                sa.select(rows.worker_id, rows.lease_id, rows.round_number).where(is_fault).order_by(rows.lease_id)
            ):
                faults.setdefault(WorkerId(worker), []).append((lease_id, round_number))
        found = {}
        for worker in counted.keys() | faults.keys():
            number, last = counted.get(worker, (0, 0))
            theirs = faults.get(worker, [])
            since = sum(lease_id > last for lease_id, _ in theirs)
            found[worker] = Record(number, since, theirs[-1][1] if theirs else 0)
        return found

    def closed_contributions(self, since: int, most: int = 1_000) -> list[Contribution]:
        """The first `most` of closed rounds whose lease is later than `since`, in the order of their leases."""
        rows = tables.contributions
        closed = sa.select(tables.rounds.c.number).where(tables.rounds.c.state == RoundState.CLOSED)
        query = sa.select(rows).where(rows.c.lease_id > since, rows.c.round_number.in_(closed))
        return self._records(Contribution, query.order_by(rows.c.lease_id).limit(most))

    def audits(self) -> list[Audited]:
        """All contributions that were recomputed, in that order."""
        return self._records(
            Audited, sa.select(tables.audits).order_by(tables.audits.c.at_ms, tables.audits.c.lease_id)
        )

    def add_audit(self, audited: Audited) -> None:
        """Store that one was; once for a lease."""
        with self._begin() as tx:
            tx.execute(self._insert(tables.audits).values(dataclasses.asdict(audited)).on_conflict_do_nothing())

    def count_refusals(self, counts: Sequence[RefusedCalls], forget_before: int | None) -> None:
        """Add to what is counted of refused calls, and forget days before that one, if one is named.

        The one sum that is kept as a sum: a row a call would let anybody fill the disk.
        """
        rows = tables.refusals
        with self._begin() as tx:
            for counted in counts:
                statement = self._insert(rows).values(dataclasses.asdict(counted))
                more = {"calls": rows.c.calls + statement.excluded.calls}
                tx.execute(statement.on_conflict_do_update(index_elements=["worker_id", "day", "reason"], set_=more))
            if forget_before is not None:
                tx.execute(sa.delete(rows).where(rows.c.day < forget_before))

    # -- blobs --------------------------------------------------------------------------------------------------

    def blob_names(self) -> set[str]:
        """sha256 of the specification, of every update and snapshot, and of all that came with contributions since the anchor.

        Of updates and snapshots only those are on disk that retention has left there.
        """
        since = tables.contributions.c.round_number > self._anchor_version()
        queries = (
            sa.select(tables.run.c.spec_sha256),
            sa.select(tables.versions.c.update_sha256),
            sa.select(tables.versions.c.snapshot_sha256),
            sa.select(tables.contributions.c.sha256).where(since),
            sa.select(tables.contributions.c.shown_sha256).where(since),
        )
        with self._begin() as tx:
            return {str(name) for query in queries for name in tx.execute(query).scalars()}

    # -- rounds and versions ------------------------------------------------------------------------------------

    def open_round(self, opened: Round) -> None:
        """Store a new round; the same one twice is stored once."""
        with self._begin() as tx:
            tx.execute(self._insert(tables.rounds).values(dataclasses.asdict(opened)).on_conflict_do_nothing())

    def latest_round(self) -> Round | None:
        """The round with the highest number."""
        found = self._records(Round, sa.select(tables.rounds).order_by(tables.rounds.c.number.desc()).limit(1))
        return found[0] if found else None

    def close_round(
        self, number: int, reason: str, out: Sequence[LeaseId], pool: DataPool, *, state: LeaseState = LeaseState.MISSED
    ) -> None:
        """Fix a round's contributions: nothing is accepted for it from here on; leases that are still `out` end as `state`."""
        values = {"state": RoundState.CLOSING, "close_reason": reason}
        with self._begin() as tx:
            tx.execute(sa.update(tables.rounds).where(tables.rounds.c.number == number).values(values))
            for lease_id in out:
                self._end(tx, lease_id, state)
            self._set_pool(tx, pool)

    def publish(self, version: Version) -> None:
        """Store a version and close the round that made it; one that goes back has the losses of what it is again."""
        rounds = tables.rounds
        with self._begin() as tx:
            tx.execute(sa.insert(tables.versions).values(dataclasses.asdict(version)))
            if version.back_to is not None:
                self._copy_evaluations(tx, version.back_to, version.version)
            tx.execute(sa.update(rounds).where(rounds.c.number == version.version).values(state=RoundState.CLOSED))

    def set_snapshot(self, version: Version) -> None:
        """Store that a published version has a snapshot."""
        versions = tables.versions
        snapshot = {"snapshot_sha256": version.snapshot_sha256, "snapshot_bytes": version.snapshot_bytes}
        with self._begin() as tx:
            tx.execute(sa.update(versions).where(versions.c.version == version.version).values(snapshot))

    def newest_version(self) -> Version:
        """The last published one."""
        query = sa.select(tables.versions).order_by(tables.versions.c.version.desc()).limit(1)
        return self._records(Version, query)[0]

    def versions(self) -> list[Version]:
        """All versions, oldest first."""
        return self._records(Version, sa.select(tables.versions).order_by(tables.versions.c.version))

    def rollbacks(self, since: int) -> list[Version]:
        """The versions after `since` that went back, oldest first."""
        rows = tables.versions
        query = sa.select(rows).where(rows.c.version > since, rows.c.back_to.is_not(None)).order_by(rows.c.version)
        return self._records(Version, query)

    # -- evaluations and checkpoints ----------------------------------------------------------------------------

    def add_evaluations(self, evaluations: Sequence[Evaluation]) -> None:
        """Store held-out losses; the same one twice is stored once."""
        with self._begin() as tx:
            for evaluation in evaluations:
                row = {field.name: getattr(evaluation, field.name) for field in dataclasses.fields(evaluation)}
                tx.execute(self._insert(tables.evaluations).values(row).on_conflict_do_nothing())

    def evaluations(self) -> list[Evaluation]:
        """All held-out losses, oldest first."""
        rows = tables.evaluations
        return self._records(Evaluation, sa.select(rows).order_by(rows.c.version, rows.c.weights))

    def add_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Store that a checkpoint is complete."""
        with self._begin() as tx:
            tx.execute(self._insert(tables.checkpoints).values(dataclasses.asdict(checkpoint)).on_conflict_do_nothing())

    def checkpoints(self) -> list[Checkpoint]:
        """All checkpoints that are offered, oldest first."""
        offered = tables.checkpoints.c.name.not_in(sa.select(tables.withdrawn.c.name))
        query = sa.select(tables.checkpoints).where(offered).order_by(tables.checkpoints.c.version)
        return self._records(Checkpoint, query)

    def exported(self) -> list[Checkpoint]:
        """All that ever were, oldest first."""
        return self._records(Checkpoint, sa.select(tables.checkpoints).order_by(tables.checkpoints.c.version))

    def withdraw(self, name: str, reason: Withdrawn) -> None:
        """Store that a checkpoint is no longer offered; its files may go from here on."""
        row = {"name": name, "reason": reason, "withdrawn_at_ms": now_ms()}
        with self._begin() as tx:
            tx.execute(self._insert(tables.withdrawn).values(row).on_conflict_do_nothing())

    # -- judgements ---------------------------------------------------------------------------------------------

    def add_judgement(self, judgement: Judgement, files: Mapping[str, str]) -> None:
        """Store what a checkpoint was judged to be, and sha256 by path of what it was judged by that is not stored yet."""
        with self._begin() as tx:
            tx.execute(self._insert(tables.judgements).values(dataclasses.asdict(judgement)).on_conflict_do_nothing())
            self._add_judging_files(tx, files)

    def judgements(self) -> list[Judgement]:
        """All of them, oldest checkpoint first."""
        return self._records(Judgement, sa.select(tables.judgements).order_by(tables.judgements.c.images))

    def judged(self) -> list[Judged]:
        """The same in short."""
        columns = [tables.judgements.c[field.name] for field in dataclasses.fields(Judged)]
        return self._records(Judged, sa.select(*columns).order_by(tables.judgements.c.images))

    def forget_sheet(self, checkpoint: str, name: str) -> None:
        """Store that a picture of a judgement is damaged; its figures stay."""
        rows = tables.judgements
        this = rows.c.checkpoint == checkpoint
        with self._begin() as tx:
            sheets = tx.execute(sa.select(rows.c.sheets).where(this)).scalar_one()
            left = {other: sha256 for other, sha256 in sheets.items() if other != name}
            tx.execute(sa.update(rows).where(this).values(sheets=left))

    def add_failed_judgement(self, checkpoint: str, reason: str) -> FailedJudgement:
        """Store that a checkpoint could not be judged."""
        rows = tables.failed_judgements
        with self._begin() as tx:
            before = tx.execute(
                sa.select(sa.func.max(rows.c.number)).where(rows.c.checkpoint == checkpoint)
            ).scalar_one()
            failed = FailedJudgement(checkpoint, (before or 0) + 1, reason[:500], now_ms())
            tx.execute(sa.insert(rows).values(dataclasses.asdict(failed)))
        return failed

    def failed_judgements(self) -> list[FailedJudgement]:
        """All tries that came to nothing, oldest first."""
        return self._records(FailedJudgement, sa.select(tables.failed_judgements).order_by("failed_at_ms", "number"))

    def add_judging_files(self, files: Mapping[str, str]) -> None:
        """Store sha256 by path, below the run's folder, of what every checkpoint is judged by."""
        with self._begin() as tx:
            self._add_judging_files(tx, files)

    def judging_files(self) -> dict[str, str]:
        """The same."""
        with self._begin() as tx:
            return {str(row.path): str(row.sha256) for row in tx.execute(sa.select(tables.judging_files))}

    # -- what is kept -------------------------------------------------------------------------------------------

    def anchor(self) -> Anchor | None:
        """The state from which the run can be computed again; None while that is the seed."""
        found = self._records(Anchor, sa.select(tables.anchors).order_by(tables.anchors.c.version.desc()).limit(1))
        return found[0] if found else None

    def set_anchor(self, anchor: Anchor) -> None:
        """Move the anchor: the contributions to its version and before it may go from here on."""
        with self._begin() as tx:
            tx.execute(self._insert(tables.anchors).values(dataclasses.asdict(anchor)).on_conflict_do_nothing())

    def held_deltas(self) -> list[HeldDelta]:
        """The blobs of the contributions since the anchor, each once, oldest first."""
        rows, since = tables.contributions.c, tables.contributions.c.round_number > self._anchor_version()
        last = sa.func.max(rows.round_number).label("round_number")

        def blobs(sha256: sa.Column[Any], size_bytes: sa.Column[Any]) -> sa.Select[Any]:
            columns = (sha256.label("sha256"), last, sa.func.max(size_bytes).label("size_bytes"))
            return sa.select(*columns).where(since, sha256 != "").group_by(sha256)

        every = sa.union_all(blobs(rows.sha256, rows.size_bytes), blobs(rows.shown_sha256, rows.shown_bytes)).subquery()
        return self._records(HeldDelta, sa.select(every).order_by(every.c.round_number, every.c.sha256))

    # -- inside -------------------------------------------------------------------------------------------------

    def _anchor_version(self) -> int:
        anchor = self.anchor()
        return anchor.version if anchor else 0

    @staticmethod
    def _grant(tx: sa.Connection, lease: Lease) -> Lease:
        key = tx.execute(sa.insert(tables.leases).values(_row(lease, "lease_id"))).inserted_primary_key
        assert key is not None
        return dataclasses.replace(lease, lease_id=LeaseId(int(key[0])))

    def _accept(self, tx: sa.Connection, contribution: Contribution) -> Contribution:
        row = _row(contribution, "contribution_id")
        key = tx.execute(sa.insert(tables.contributions).values(row)).inserted_primary_key
        assert key is not None
        self._end(tx, contribution.lease_id, LeaseState.SUBMITTED)
        return dataclasses.replace(contribution, contribution_id=int(key[0]))

    @staticmethod
    def _end(tx: sa.Connection, lease_id: LeaseId, state: LeaseState) -> None:
        tx.execute(sa.update(tables.leases).where(tables.leases.c.lease_id == lease_id).values(state=state))

    def _copy_evaluations(self, tx: sa.Connection, source: int, target: int) -> None:
        rows = tx.execute(sa.select(tables.evaluations).where(tables.evaluations.c.version == source)).mappings().all()
        for row in rows:
            tx.execute(self._insert(tables.evaluations).values({**row, "version": target}).on_conflict_do_nothing())

    def _add_judging_files(self, tx: sa.Connection, files: Mapping[str, str]) -> None:
        for path, sha256 in files.items():
            row = {"path": path, "sha256": sha256}
            tx.execute(self._insert(tables.judging_files).values(row).on_conflict_do_nothing())

    @staticmethod
    def _set_pool(tx: sa.Connection, pool: DataPool) -> None:
        tx.execute(sa.update(tables.run).values(pool=pool.to_json()))


def _numbered(lease: Lease, granted: Sequence[Lease]) -> Lease:
    """The first one that it trains again may be one of those `granted` just before, from -1 downwards (`Books.firsts`)."""
    if lease.second_of >= 0:
        return lease
    return dataclasses.replace(lease, second_of=granted[-1 - lease.second_of].lease_id)


def _row(record: Action | Lease | Contribution, numbered_by: str) -> dict[str, Any]:
    """Its columns, but for the number that the table gives."""
    names = (field.name for field in dataclasses.fields(record))
    return {name: getattr(record, name) for name in names if name != numbered_by}
