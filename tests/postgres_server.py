"""A PostgreSQL server of the tests' own: in a folder that is thrown away, on a Unix socket alone, which syncs as in earnest."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from coordinator.ledger_move import move_to_server
from coordinator.run_folder import RunFolder

_PROGRAMS: Final = Path("/usr/lib/postgresql")
"""Debian's, one folder a version."""

_SETTINGS: Final = {
    "listen_addresses": "",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "logging_collector": "off",
}


def why_not() -> str:
    """Why there can be no server here; empty if there can."""
    if _programs() is None:
        return f"no PostgreSQL server below {_PROGRAMS}: scripts/packages.sh postgresql installs it"
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        return "PostgreSQL does not run as root, and there is no setpriv to become another user"
    return ""


class PostgresServer:
    """One that runs."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))  # a socket's path may have no more than 107 characters
        self._schemas = itertools.count()
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        self.folder.chmod(0o755)
        data = self.folder / "data"
        made = self._start(
            "initdb", "--pgdata", data, "--auth=trust", "--username=dah", "--encoding=UTF8", "--locale=C.UTF-8"
        )
        assert made.wait() == 0, (self.folder / "log").read_text()
        settings = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
        self._command = ("postgres", "-D", data, "-k", self.folder, *settings)
        self.start()

    def start(self) -> None:
        """Start it, also again."""
        self._process = self._start(*self._command)
        engine = sa.create_engine(self.address("public").set(drivername="postgresql+psycopg"))
        deadline = time.monotonic() + 60
        while True:
            try:
                engine.connect().close()
                break
            except sa.exc.OperationalError:
                assert self._process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        self._engine = engine

    def stop(self) -> None:
        """Stop it, and let nobody finish: what is committed stays."""
        self._engine.dispose()
        self._process.send_signal(signal.SIGINT)
        self._process.wait()

    def close(self) -> None:
        """Stop it and delete all of it."""
        self.stop()
        shutil.rmtree(self.folder)

    def address(self, schema: str) -> sa.URL:
        """Of `schema`."""
        query = {"host": str(self.folder), "options": f"-csearch_path={schema}"}
        return sa.URL.create("postgresql", username="dah", database="postgres", query=query)

    def new_place(self) -> str:
        """The address of a schema with nothing in it."""
        schema = f"run_{next(self._schemas)}"
        self.execute(f"CREATE SCHEMA {schema}")
        return self.address(schema).render_as_string(hide_password=False)

    def take_in(self, folder: RunFolder) -> RunFolder:
        """Move the ledger of the run in `folder` to a place of its own."""
        move_to_server(folder, self.new_place())
        return folder

    def execute(self, statement: str) -> None:
        """As the server's owner."""
        with self._engine.begin() as tx:
            tx.exec_driver_sql(statement)

    def set(self, name: str, value: str) -> None:
        """Change a setting of the whole server."""
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(f"ALTER SYSTEM SET {name} = {value}")
            connection.exec_driver_sql("SELECT pg_reload_conf()")
        while True:
            with self._engine.begin() as tx:
                if tx.exec_driver_sql(f"SHOW {name}").scalar() == value:
                    return

    def break_line(self, application: str = "dah") -> int:
        """End every connection of which the name begins so; returns how many there were."""
        with self._engine.begin() as tx:
            found = tx.execute(
                sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE :name"),
                {"name": f"{application}%"},
            )
            return len(found.all())

    def _start(self, program: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
        who = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups") if os.geteuid() == 0 else ()
        programs = _programs()
        assert programs is not None
        command = [*who, programs / program, *arguments]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)


def _programs() -> Path | None:
    """The newest version's, if there is one."""
    found = sorted(_PROGRAMS.glob("*/bin/initdb"), key=lambda path: int(path.parents[1].name))
    return found[-1].parent if found else None
