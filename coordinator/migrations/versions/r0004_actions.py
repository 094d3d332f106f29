"""What the operator did, and who came by invitation."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make them; whoever came before needed no invitation, and no version went back."""
    op.add_column("workers", sa.Column("invite", sa.String(64), nullable=False, server_default=""))
    op.add_column("versions", sa.Column("back_to", sa.BigInteger(), nullable=True))
    op.add_column("versions", sa.Column("action_id", sa.BigInteger(), nullable=True))
    op.create_table(
        "actions",
        sa.Column("action_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("note", sa.String(500), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("uses", sa.BigInteger(), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("action_id", name="pk_actions"),
        sqlite_autoincrement=True,
    )
