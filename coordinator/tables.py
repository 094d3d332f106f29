"""The ledger's tables: columns are the fields of the records, so a row is a record.

A change here needs a revision in `coordinator/migrations/versions/`; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Enum,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    text,
)

from coordinator.records import ActionKind, Fault, LeaseState, Opinion, RoundState, Weights, Withdrawn
from diffusion_at_home.data.order import ShardRange

REVISION: Final = "0009"
"""The newest one in `coordinator/migrations/versions/`, which is the schema below."""

_Id = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER counts up by itself in SQLite


class Ranges(TypeDecorator[tuple[ShardRange, ...]]):
    """A tuple of `ShardRange` as a JSON list of [shard, epoch, start, count]."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: Sequence[ShardRange] | None, dialect: Dialect) -> Any:  # noqa: ARG002
        """To JSON."""
        return None if value is None else [[r.shard, r.epoch, r.start, r.count] for r in value]

    def process_result_value(self, value: Any | None, dialect: Dialect) -> tuple[ShardRange, ...]:  # noqa: ARG002
        """From JSON."""
        return tuple(ShardRange(shard=s, epoch=e, start=a, count=n) for s, e, a, n in value or ())


class OneRange(TypeDecorator[ShardRange]):
    """A `ShardRange` as JSON."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: ShardRange | None, dialect: Dialect) -> Any:  # noqa: ARG002
        """To JSON."""
        return None if value is None else [value.shard, value.epoch, value.start, value.count]

    def process_result_value(self, value: Any | None, dialect: Dialect) -> ShardRange:  # noqa: ARG002
        """From JSON."""
        shard, epoch, start, count = value or (0, 0, 0, 0)
        return ShardRange(shard=shard, epoch=epoch, start=start, count=count)


class Floats(TypeDecorator[tuple[float, ...]]):
    """A tuple of floats as JSON."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: Sequence[float] | None, dialect: Dialect) -> Any:  # noqa: ARG002
        """To JSON."""
        return None if value is None else list(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> tuple[float, ...]:  # noqa: ARG002
        """From JSON."""
        return tuple(value or ())


def _choice(choices: type[StrEnum]) -> Enum:
    return Enum(choices, native_enum=False, length=16, values_callable=lambda kind: [member.value for member in kind])


metadata = MetaData(
    naming_convention={  # so that a later revision can name what it changes, in any database
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

run = Table(
    "run",
    metadata,
    Column("id", Integer, primary_key=True),  # always 1
    Column("run_id", String(80), nullable=False),
    Column("spec_sha256", String(64), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("pool", JSON, nullable=False),  # what of the data is not leased: see DataPool
)

workers = Table(
    "workers",
    metadata,
    Column("worker_id", String(16), primary_key=True),
    Column("public_key", LargeBinary(32), nullable=False),
    Column("token_sha256", String(64), nullable=False, unique=True),
    Column("signed_at_ms", BigInteger, nullable=False),
    Column("display_name", String(64), nullable=False),
    Column("device", String(16), nullable=False),
    Column("device_name", String(128), nullable=False),
    Column("num_devices", Integer, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("software_version", String(32), nullable=False),
    Column("joined_at_ms", BigInteger, nullable=False),
    Column("invite", String(64), nullable=False, server_default=""),
    Column("team", String(64), nullable=False, server_default=""),
)

actions = Table(
    "actions",
    metadata,
    Column("action_id", _Id, primary_key=True),
    Column("kind", _choice(ActionKind), nullable=False),
    Column("subject", String(64), nullable=False),
    Column("note", String(500), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("uses", BigInteger, nullable=False),
    Column("until_ms", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

rounds = Table(
    "rounds",
    metadata,
    Column("number", _Id, primary_key=True, autoincrement=False),
    Column("target_images", BigInteger, nullable=False),
    Column("state", _choice(RoundState), nullable=False),
    Column("opened_at_ms", BigInteger, nullable=False),
    Column("close_reason", String(32), nullable=False),
)

_second = text("second_of != 0")

leases = Table(
    "leases",
    metadata,
    Column("lease_id", _Id, primary_key=True),
    Column("worker_id", ForeignKey("workers.worker_id"), nullable=False),
    Column("base_version", BigInteger, nullable=False),
    Column("ranges", Ranges, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("quota_images", BigInteger, nullable=False),
    Column("learning_rate", Float, nullable=False),
    Column("state", _choice(LeaseState), nullable=False),
    Column("granted_at_ms", BigInteger, nullable=False),
    Column("second_of", BigInteger, nullable=False, server_default="0"),
    Index("leases_by_state", "state"),
    Index("leases_trained_again", "second_of", sqlite_where=_second, postgresql_where=_second),
    Index("leases_of_worker", "worker_id", "state"),
    sqlite_autoincrement=True,  # a lease's number is never used again
)

contributions = Table(
    "contributions",
    metadata,
    Column("contribution_id", _Id, primary_key=True),
    Column("lease_id", ForeignKey("leases.lease_id"), nullable=False, unique=True),  # a lease counts once
    Column("worker_id", ForeignKey("workers.worker_id"), nullable=False),
    Column("round_number", ForeignKey("rounds.number"), nullable=False, index=True),
    Column("first_range", OneRange, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("images", BigInteger, nullable=False),
    Column("weight", Float, nullable=False),
    Column("mean_loss", Float, nullable=False),
    Column("train_ms", BigInteger, nullable=False),
    Column("accepted_at_ms", BigInteger, nullable=False),
    Column("signature", String(128), nullable=False, server_default=""),
    Column("weights", String(16), nullable=False, server_default=""),
    Column("residual_before", String(64), nullable=False, server_default=""),
    Column("residual_after", String(64), nullable=False, server_default=""),
    Column("shown_sha256", String(64), nullable=False, server_default=""),
    Column("shown_bytes", BigInteger, nullable=False, server_default="0"),
    Index("contributions_by_sha256", "sha256"),
    Index("contributions_by_worker", "worker_id"),
    # All that credit is summed from, so that a sum reads no row.
    Index("contributions_of_worker", "worker_id", "accepted_at_ms", "round_number", "lease_id", "images"),
    sqlite_autoincrement=True,
)

_faulty = text("fault != ''")

verdicts = Table(
    "verdicts",
    metadata,
    Column("lease_id", ForeignKey("leases.lease_id"), primary_key=True),
    Column("worker_id", ForeignKey("workers.worker_id"), nullable=False, index=True),
    Column("round_number", BigInteger, nullable=False, index=True),
    Column("weight", Float, nullable=False),
    Column("scale", Float, nullable=False),
    Column("norm", Float, nullable=False),
    Column("cosine", Float, nullable=True),
    Column("fault", _choice(Fault), nullable=False),
    Index("verdicts_left_out", "worker_id", "lease_id", sqlite_where=_faulty, postgresql_where=_faulty),
)

audits = Table(
    "audits",
    metadata,
    Column("lease_id", ForeignKey("leases.lease_id"), primary_key=True),
    Column("worker_id", ForeignKey("workers.worker_id"), nullable=False, index=True),
    Column("agrees", Boolean, nullable=False),
    Column("cosine", Float, nullable=False),
    Column("length_ratio", Float, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)

refusals = Table(  # bounded: see `coordinator.refusal_book`
    "refusals",
    metadata,
    Column("worker_id", ForeignKey("workers.worker_id"), primary_key=True),
    Column("day", Integer, primary_key=True, autoincrement=False),  # since 1970, in UTC
    Column("reason", String(32), primary_key=True),
    Column("calls", BigInteger, nullable=False),
)

second_opinions = Table(
    "second_opinions",
    metadata,
    Column("lease_id", ForeignKey("leases.lease_id"), primary_key=True),
    Column("worker_id", ForeignKey("workers.worker_id"), nullable=False),
    Column("first_lease_id", ForeignKey("leases.lease_id"), nullable=False),
    Column("first_worker_id", ForeignKey("workers.worker_id"), nullable=False),
    Column("opinion", _choice(Opinion), nullable=False),
    Column("cosine", Float, nullable=False),
    Column("length_ratio", Float, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("version", _Id, primary_key=True, autoincrement=False),
    Column("images", BigInteger, nullable=False),
    Column("weights_digest", String(64), nullable=False),
    Column("update_sha256", String(64), nullable=False),
    Column("update_bytes", BigInteger, nullable=False),
    Column("snapshot_sha256", String(64), nullable=False),
    Column("snapshot_bytes", BigInteger, nullable=False),
    Column("published_at_ms", BigInteger, nullable=False),
    Column("back_to", BigInteger, nullable=True),
    Column("action_id", BigInteger, nullable=True),
)

evaluations = Table(
    "evaluations",
    metadata,
    Column("version", ForeignKey("versions.version"), primary_key=True),
    Column("weights", _choice(Weights), primary_key=True),
    Column("images", BigInteger, nullable=False),
    Column("mean", Float, nullable=False),
    Column("bins", Floats, nullable=False),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("version", ForeignKey("versions.version"), nullable=False),
    Column("images", BigInteger, nullable=False),
    Column("default_weights", _choice(Weights), nullable=False),
    Column("held_out_loss", Float, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("manifest_sha256", String(64), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
)

withdrawn = Table(
    "withdrawn",
    metadata,
    Column("name", ForeignKey("checkpoints.name"), primary_key=True),
    Column("reason", _choice(Withdrawn), nullable=False),
    Column("withdrawn_at_ms", BigInteger, nullable=False),
)

anchors = Table(
    "anchors",
    metadata,
    Column("version", ForeignKey("versions.version"), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("made_at_ms", BigInteger, nullable=False),
)

judgements = Table(
    "judgements",
    metadata,
    Column("checkpoint", ForeignKey("checkpoints.name"), primary_key=True),
    Column("images", BigInteger, nullable=False),
    Column("encoder_sha256", String(64), nullable=False),
    Column("frechet", Float, nullable=True),
    Column("kernel", Float, nullable=True),
    Column("retrieval", Float, nullable=True),
    Column("unseen", Float, nullable=True),
    Column("result", Text, nullable=False),
    Column("sheets", JSON, nullable=False),
    Column("judged_at_ms", BigInteger, nullable=False),
)

failed_judgements = Table(
    "failed_judgements",
    metadata,
    Column("checkpoint", ForeignKey("checkpoints.name"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("reason", String(500), nullable=False),
    Column("failed_at_ms", BigInteger, nullable=False),
)

judging_files = Table(  # what every checkpoint is judged by, below the run's folder
    "judging_files",
    metadata,
    Column("path", String(200), primary_key=True),
    Column("sha256", String(64), nullable=False),
)
