"""Who signed a contribution, and how it counted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make them; what came before was not signed, and counted as it was."""
    signature = sa.Column("signature", sa.String(128), nullable=False, server_default="")
    op.add_column("contributions", signature)
    op.create_index("contributions_by_sha256", "contributions", ["sha256"])
    op.create_table(
        "verdicts",
        sa.Column("lease_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("worker_id", sa.String(16), nullable=False),
        sa.Column("round_number", sa.BigInteger(), nullable=False),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.Column("scale", sa.Float(), nullable=False),
        sa.Column("norm", sa.Float(), nullable=False),
        sa.Column("cosine", sa.Float(), nullable=True),
        sa.Column("fault", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("lease_id", name="pk_verdicts"),
        sa.ForeignKeyConstraint(["lease_id"], ["leases.lease_id"], name="fk_verdicts_lease_id"),
        sa.ForeignKeyConstraint(["worker_id"], ["workers.worker_id"], name="fk_verdicts_worker_id"),
    )
    op.create_index("ix_verdicts_worker_id", "verdicts", ["worker_id"])
    op.create_index("ix_verdicts_round_number", "verdicts", ["round_number"])
