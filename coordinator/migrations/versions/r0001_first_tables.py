"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make them."""
    _run_and_workers()
    _work()
    _results()


def _run_and_workers() -> None:
    op.create_table(
        "run",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(80), nullable=False),
        sa.Column("spec_sha256", sa.String(64), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("pool", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_run"),
    )
    op.create_table(
        "workers",
        sa.Column("worker_id", sa.String(16), nullable=False),
        sa.Column("public_key", sa.LargeBinary(32), nullable=False),
        sa.Column("token_sha256", sa.String(64), nullable=False),
        sa.Column("signed_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("display_name", sa.String(64), nullable=False),
        sa.Column("device", sa.String(16), nullable=False),
        sa.Column("device_name", sa.String(128), nullable=False),
        sa.Column("num_devices", sa.Integer(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("software_version", sa.String(32), nullable=False),
        sa.Column("joined_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("worker_id", name="pk_workers"),
        sa.UniqueConstraint("token_sha256", name="uq_workers_token_sha256"),
    )


def _work() -> None:
    op.create_table(
        "rounds",
        sa.Column("number", _id, autoincrement=False, nullable=False),
        sa.Column("target_images", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("opened_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("close_reason", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_rounds"),
    )
    op.create_table(
        "leases",
        sa.Column("lease_id", _id, nullable=False),
        sa.Column("worker_id", sa.String(16), nullable=False),
        sa.Column("base_version", sa.BigInteger(), nullable=False),
        sa.Column("ranges", sa.JSON(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("quota_images", sa.BigInteger(), nullable=False),
        sa.Column("learning_rate", sa.Float(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("granted_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("lease_id", name="pk_leases"),
        sa.ForeignKeyConstraint(["worker_id"], ["workers.worker_id"], name="fk_leases_worker_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("leases_by_state", "leases", ["state"])
    op.create_table(
        "contributions",
        sa.Column("contribution_id", _id, nullable=False),
        sa.Column("lease_id", _id, nullable=False),
        sa.Column("worker_id", sa.String(16), nullable=False),
        sa.Column("round_number", _id, nullable=False),
        sa.Column("first_range", sa.JSON(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("images", sa.BigInteger(), nullable=False),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.Column("mean_loss", sa.Float(), nullable=False),
        sa.Column("train_ms", sa.BigInteger(), nullable=False),
        sa.Column("accepted_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("contribution_id", name="pk_contributions"),
        sa.ForeignKeyConstraint(["lease_id"], ["leases.lease_id"], name="fk_contributions_lease_id"),
        sa.ForeignKeyConstraint(["worker_id"], ["workers.worker_id"], name="fk_contributions_worker_id"),
        sa.ForeignKeyConstraint(["round_number"], ["rounds.number"], name="fk_contributions_round_number"),
        sa.UniqueConstraint("lease_id", name="uq_contributions_lease_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_contributions_round_number", "contributions", ["round_number"])


def _results() -> None:
    op.create_table(
        "versions",
        sa.Column("version", _id, autoincrement=False, nullable=False),
        sa.Column("images", sa.BigInteger(), nullable=False),
        sa.Column("weights_digest", sa.String(64), nullable=False),
        sa.Column("update_sha256", sa.String(64), nullable=False),
        sa.Column("update_bytes", sa.BigInteger(), nullable=False),
        sa.Column("snapshot_sha256", sa.String(64), nullable=False),
        sa.Column("snapshot_bytes", sa.BigInteger(), nullable=False),
        sa.Column("published_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_versions"),
    )
    op.create_table(
        "evaluations",
        sa.Column("version", _id, nullable=False),
        sa.Column("weights", sa.String(16), nullable=False),
        sa.Column("images", sa.BigInteger(), nullable=False),
        sa.Column("mean", sa.Float(), nullable=False),
        sa.Column("bins", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("version", "weights", name="pk_evaluations"),
        sa.ForeignKeyConstraint(["version"], ["versions.version"], name="fk_evaluations_version"),
    )
    op.create_table(
        "checkpoints",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("version", _id, nullable=False),
        sa.Column("images", sa.BigInteger(), nullable=False),
        sa.Column("default_weights", sa.String(16), nullable=False),
        sa.Column("held_out_loss", sa.Float(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("manifest_sha256", sa.String(64), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_checkpoints"),
        sa.ForeignKeyConstraint(["version"], ["versions.version"], name="fk_checkpoints_version"),
    )
    op.create_table(
        "withdrawn",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("reason", sa.String(16), nullable=False),
        sa.Column("withdrawn_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_withdrawn"),
        sa.ForeignKeyConstraint(["name"], ["checkpoints.name"], name="fk_withdrawn_name"),
    )
    op.create_table(
        "anchors",
        sa.Column("version", _id, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("made_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_anchors"),
        sa.ForeignKeyConstraint(["version"], ["versions.version"], name="fk_anchors_version"),
    )
