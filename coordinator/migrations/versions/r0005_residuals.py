"""What workers commit to and show of what their encodings leave out."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make room; what came before committed to nothing."""
    for name in ("residual_before", "residual_after", "shown_sha256"):
        op.add_column("contributions", sa.Column(name, sa.String(64), nullable=False, server_default=""))
    op.add_column("contributions", sa.Column("shown_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.create_index("contributions_by_worker", "contributions", ["worker_id"])
