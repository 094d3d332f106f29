"""The ledger's schema: what the revisions make is what the code uses; an older ledger is brought there whole or not at all."""

from __future__ import annotations

import io
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

import coordinator.migrations
from coordinator import tables
from coordinator.data_pool import DataPool
from coordinator.ledger import Ledger
from coordinator.migrations import Migrations, our_migrations
from coordinator.records import Contribution, Lease, LeaseId, LeaseState
from diffusion_at_home.data.order import DataCursor, ShardRange
from diffusion_at_home.errors import IntegrityError, StorageError
from tests.unit.desk import ANNA, SHA, a_round, new_ledger
from tests.unit.one_change import accept, grant
from tests.unit.tiny_run import REPOSITORY

Rows = dict[str, list[Any]]

TRIAL = f"""
import os, signal
import sqlalchemy as sa
from alembic import op

revision, down_revision = "trial", "{our_migrations().newest}"

def upgrade() -> None:
    op.add_column("workers", sa.Column("country", sa.String(2), nullable=False, server_default="?"))
    with op.batch_alter_table("leases", table_kwargs={{"sqlite_autoincrement": True}}) as leases:
        leases.alter_column("quota_images", new_column_name="images")
    op.execute("UPDATE workers SET country = 'XX'")
"""
"""Adds a column, rebuilds a table that another one refers to, changes rows."""

FAILS = TRIAL + '    raise ValueError("half-way")\n'
DIES = TRIAL + "    os.kill(os.getpid(), signal.SIGKILL)\n"
FINDS_NO_SPACE = (
    TRIAL
    + '    op.execute("PRAGMA max_page_count=1")\n    op.execute("CREATE TABLE large AS SELECT zeroblob(1000000)")\n'
)
LOSES_A_ROW = TRIAL + '    op.execute("DELETE FROM leases")\n'


def test_the_tables_are_those_of_the_newest_revision() -> None:
    assert our_migrations().newest == tables.REVISION


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with rows, one of them a contribution that refers to a lease, and a lease's number that no row has."""
    path = tmp_path / "ledger.sqlite"
    with closing(new_ledger(path)) as ledger:
        ledger.open_round(a_round(1))
        pool, data = DataPool(DataCursor(0, 1, 4)), (ShardRange(epoch=0, shard=2, start=0, count=16),)
        for _ in range(3):
            lease = grant(ledger, Lease(LeaseId(0), ANNA, 0, data, 7, 16, 1e-3, LeaseState.ACTIVE, 1), pool)
        accept(ledger, Contribution(0, LeaseId(1), ANNA, 1, data[0], SHA, 100, 10, 10.0, 0.5, 1000, 1, ""), pool)
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("DELETE FROM leases WHERE lease_id = ?", (lease.lease_id,))
    return path


def trial(folder: Path, text: str = TRIAL) -> Migrations:
    folder.mkdir(exist_ok=True)
    (folder / "trial.py").write_text(text)
    return Migrations(folder)


def content(path: Path) -> tuple[str, Rows]:
    """The revision and every row, with its columns' names."""
    with closing(sqlite3.connect(path)) as raw:
        raw.row_factory = sqlite3.Row
        names = [row[0] for row in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        rows = {name: [dict(row) for row in raw.execute(f"SELECT * FROM {name} ORDER BY 1")] for name in names}
    (revision,) = rows.pop("alembic_version")
    return revision["version_num"], rows


def test_the_revisions_make_the_tables_that_the_code_uses(tmp_path: Path) -> None:
    new_ledger(tmp_path / "ledger.sqlite").close()
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    with engine.connect() as tx:
        differences = compare_metadata(MigrationContext.configure(tx), tables.metadata)
    engine.dispose()
    assert differences == [], "coordinator/tables.py has changed: write a revision in coordinator/migrations/versions"


def test_what_a_table_counts_is_never_counted_again_as_the_code_says(tmp_path: Path) -> None:
    new_ledger(tmp_path / "ledger.sqlite").close()
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as raw:
        made = {
            name for name, text in raw.execute("SELECT name, sql FROM sqlite_master") if "AUTOINCREMENT" in str(text)
        }
    meant = {table.name for table in tables.metadata.sorted_tables if table.dialect_options["sqlite"]["autoincrement"]}
    assert made == meant != set()


def test_postgresql_would_take_the_revisions() -> None:
    folder, made = Path(coordinator.migrations.__file__).parent, io.StringIO()
    scripts = ScriptDirectory(str(folder))
    steps = [script.module for script in reversed(list(scripts.walk_revisions()))]
    context = MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True, "output_buffer": made})
    with Operations.context(context):
        for step in steps:
            step.upgrade()
    assert "lease_id BIGSERIAL NOT NULL" in made.getvalue()
    assert "number BIGINT NOT NULL" in made.getvalue()


def test_older_ledger_is_upgraded_when_it_is_opened_and_a_copy_stays(path: Path, tmp_path: Path) -> None:
    before, rows = content(path)
    Ledger(path, migrations=trial(tmp_path / "trial")).close()
    revision, upgraded = content(path)
    assert revision == "trial"
    assert [worker.pop("country") for worker in upgraded["workers"]] == ["XX"] * 3
    for lease in upgraded["leases"]:
        lease["quota_images"] = lease.pop("images")
    assert upgraded == rows
    assert content(tmp_path / "ledger-before-trial.sqlite") == (before, rows)


def test_upgraded_ledger_is_opened_as_it_is(path: Path, tmp_path: Path) -> None:
    migrations = trial(tmp_path / "trial")
    Ledger(path, migrations=migrations).close()
    (tmp_path / "ledger-before-trial.sqlite").unlink()
    Ledger(path, migrations=migrations).close()
    Ledger(path, migrations=migrations, read_only=True).close()
    assert not (tmp_path / "ledger-before-trial.sqlite").exists()


def test_upgrade_keeps_how_far_numbers_have_counted(path: Path, tmp_path: Path) -> None:
    Ledger(path, migrations=trial(tmp_path / "trial")).close()
    _, rows = content(path)
    assert {row["name"]: row["seq"] for row in rows["sqlite_sequence"]} == {"leases": 3, "contributions": 1}
    assert [lease["lease_id"] for lease in rows["leases"]] == [1, 2]


@pytest.mark.parametrize(
    ("text", "error", "sentence"),
    [
        (FAILS, ValueError, "half-way"),
        (FINDS_NO_SPACE, StorageError, "full.*: free some space"),
        (LOSES_A_ROW, IntegrityError, "a row of contributions that refers to nothing"),
    ],
    ids=["fails", "finds no space", "loses a row"],
)
def test_upgrade_that_fails_leaves_the_ledger_as_it_was(
    path: Path, tmp_path: Path, text: str, error: type[Exception], sentence: str
) -> None:
    before = content(path)
    with pytest.raises(error, match=sentence):
        Ledger(path, migrations=trial(tmp_path / "trial", text))
    assert content(path) == before
    Ledger(path).close()


def test_without_a_transaction_of_our_own_half_an_upgrade_would_stay(path: Path, tmp_path: Path) -> None:
    before = content(path)
    engine = sa.create_engine(f"sqlite:///{path}")
    with pytest.raises(ValueError, match="half-way"), engine.begin() as tx:
        trial(tmp_path / "trial", FAILS).run(tx)
    engine.dispose()
    assert content(path) != before


def test_process_that_dies_half_way_leaves_the_ledger_as_it_was(path: Path, tmp_path: Path) -> None:
    before = content(path)
    trial(tmp_path / "trial", DIES)
    code = (
        "import sys; from pathlib import Path; from coordinator.ledger import Ledger; "
        "from coordinator.migrations import Migrations\n"
        "Ledger(Path(sys.argv[1]), migrations=Migrations(Path(sys.argv[2])))"
    )
    done = subprocess.run([sys.executable, "-c", code, path, tmp_path / "trial"], check=False, cwd=REPOSITORY)
    assert done.returncode == -signal.SIGKILL
    assert content(path) == before
    Ledger(path, migrations=trial(tmp_path / "trial")).close()
    assert content(path)[0] == "trial"


def test_older_ledger_that_may_only_be_read_is_refused(path: Path, tmp_path: Path) -> None:
    before = content(path)
    with pytest.raises(IntegrityError, match="instead of trial: start the coordinator once, which upgrades it"):
        Ledger(path, read_only=True, migrations=trial(tmp_path / "trial"))
    assert content(path) == before


@pytest.mark.parametrize("read_only", [True, False])
def test_ledger_of_newer_software_is_refused(path: Path, tmp_path: Path, read_only: bool) -> None:
    Ledger(path, migrations=trial(tmp_path / "trial")).close()
    newer = content(path)
    with pytest.raises(IntegrityError, match="revision trial, which this software does not know: use newer software"):
        Ledger(path, read_only=read_only)
    assert content(path) == newer


def test_a_new_ledger_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    new_ledger(tmp_path / "ledger.sqlite").close()
    assert capfd.readouterr() == ("", "")
