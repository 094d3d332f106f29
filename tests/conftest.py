"""Which tests run, and golden files: what once left this code must stay readable for ever, so they change only on demand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres_server import PostgresServer, why_not

# Before anything loads torch, and for the processes that tests start: small tensors gain nothing from more threads.
os.environ["OMP_NUM_THREADS"] = "1"

_GOLDENS = Path(__file__).parent / "goldens"


class Goldens:
    """The checked-in files that results are compared with."""

    def __init__(self, *, rewrite: bool) -> None:
        self._rewrite = rewrite

    def check(self, name: str, text: str) -> None:
        """Fail unless `text` is what tests/goldens/`name` holds; with --rewrite-goldens make it so."""
        path = _GOLDENS / name
        if self._rewrite:
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), f"{path} differs; if that is meant, use --rewrite-goldens"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes, too")
    parser.addoption("--rewrite-goldens", action="store_true", help="write tests/goldens anew instead of comparing")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what is slow, unless it was asked for."""
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="takes minutes: --slow runs it"))


@pytest.fixture
def goldens(request: pytest.FixtureRequest) -> Goldens:
    return Goldens(rewrite=request.config.getoption("--rewrite-goldens"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server for all tests of this process."""
    if reason := why_not():
        pytest.skip(reason)
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a ledger may be made: once for each engine."""
    if request.param == "sqlite":
        return tmp_path / "ledger.sqlite"
    server: PostgresServer = request.getfixturevalue("postgres")
    path = tmp_path / "ledger.url"
    path.write_text(server.new_place())
    return path
