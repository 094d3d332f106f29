"""Leases that a second volunteer trains, and what came of it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Make room; no lease was trained again before."""
    op.add_column("leases", sa.Column("second_of", sa.BigInteger(), nullable=False, server_default="0"))
    second = sa.text("second_of != 0")
    op.create_index("leases_trained_again", "leases", ["second_of"], sqlite_where=second, postgresql_where=second)
    op.create_table(
        "second_opinions",
        sa.Column("lease_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("worker_id", sa.String(16), nullable=False),
        sa.Column("first_lease_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("first_worker_id", sa.String(16), nullable=False),
        sa.Column("opinion", sa.String(16), nullable=False),
        sa.Column("cosine", sa.Float(), nullable=False),
        sa.Column("length_ratio", sa.Float(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("lease_id", name="pk_second_opinions"),
        sa.ForeignKeyConstraint(["lease_id"], ["leases.lease_id"], name="fk_second_opinions_lease_id"),
        sa.ForeignKeyConstraint(["worker_id"], ["workers.worker_id"], name="fk_second_opinions_worker_id"),
        sa.ForeignKeyConstraint(["first_lease_id"], ["leases.lease_id"], name="fk_second_opinions_first_lease_id"),
        sa.ForeignKeyConstraint(["first_worker_id"], ["workers.worker_id"], name="fk_second_opinions_first_worker_id"),
    )
