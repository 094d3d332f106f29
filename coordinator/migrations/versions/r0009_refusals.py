"""How often calls of each worker were refused, by day and reason."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Nothing is known of earlier ones."""
    op.create_table(
        "refusals",
        sa.Column("worker_id", sa.String(16), nullable=False),
        sa.Column("day", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("calls", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("worker_id", "day", "reason", name="pk_refusals"),
        sa.ForeignKeyConstraint(["worker_id"], ["workers.worker_id"], name="fk_refusals_worker_id"),
    )
