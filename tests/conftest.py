"""Which tests run, and golden files: what once left this code must stay readable for ever, so they change only on demand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
