"""Teams; and what the pages sum up, and ask of a worker, without reading every row whole."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the indexes; whoever came before is of no team."""
    op.add_column("workers", sa.Column("team", sa.String(64), nullable=False, server_default=""))
    credit = ["worker_id", "accepted_at_ms", "round_number", "lease_id", "images"]
    op.create_index("contributions_of_worker", "contributions", credit)
    op.create_index("leases_of_worker", "leases", ["worker_id", "state"])
    faulty = sa.text("fault != ''")
    op.create_index(
        "verdicts_left_out", "verdicts", ["worker_id", "lease_id"], sqlite_where=faulty, postgresql_where=faulty
    )
