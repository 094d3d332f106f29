"""What checkpoints were judged to be, and by what."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "judgements",
        sa.Column("checkpoint", sa.String(128), nullable=False),
        sa.Column("images", sa.BigInteger(), nullable=False),
        sa.Column("encoder_sha256", sa.String(64), nullable=False),
        sa.Column("frechet", sa.Float(), nullable=True),
        sa.Column("kernel", sa.Float(), nullable=True),
        sa.Column("retrieval", sa.Float(), nullable=True),
        sa.Column("unseen", sa.Float(), nullable=True),
        sa.Column("result", sa.Text(), nullable=False),
        sa.Column("sheets", sa.JSON(), nullable=False),
        sa.Column("judged_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("checkpoint", name="pk_judgements"),
        sa.ForeignKeyConstraint(["checkpoint"], ["checkpoints.name"], name="fk_judgements_checkpoint"),
    )
    op.create_table(
        "failed_judgements",
        sa.Column("checkpoint", sa.String(128), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(500), nullable=False),
        sa.Column("failed_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("checkpoint", "number", name="pk_failed_judgements"),
        sa.ForeignKeyConstraint(["checkpoint"], ["checkpoints.name"], name="fk_failed_judgements_checkpoint"),
    )
    op.create_table(
        "judging_files",
        sa.Column("path", sa.String(200), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("path", name="pk_judging_files"),
    )
