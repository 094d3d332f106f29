"""How workers kept their weights, which they sign now."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Make room; of what came before it is not known."""
    op.add_column("contributions", sa.Column("weights", sa.String(16), nullable=False, server_default=""))
