"""What the run shows of its judgements: all figures, and which pictures may be served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from coordinator.judging.work import DERIVED
from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.records import Judgement


class Judgements:
    """Only judgements in the ledger, only files that it names, and what each judgement makes anew."""

    def __init__(self, *, folder: Path, run_id: str, ledger: LedgerThread) -> None:
        self._folder = folder
        self._run_id = run_id
        self._ledger = ledger

    async def listing(self) -> dict[str, Any]:
        """The history, oldest checkpoint first: each result as `dah checkpoint evaluate` has it, and its pictures."""
        return {
            "run_id": self._run_id,
            "judgements": await self._ledger.run(_history),
            "files": [name for name in DERIVED if (self._folder / name).is_file()],
        }

    async def file(self, name: str) -> Path | None:
        """The one that is made anew each time, or None if there is none of that name."""
        path = self._folder / name
        return path if name in DERIVED and path.is_file() else None

    async def sheet(self, checkpoint: str, name: str) -> Path | None:
        """The picture `name` of the judgement of `checkpoint`, or None."""
        found = await self._ledger.run(Ledger.judgements)
        named = any(judgement.checkpoint == checkpoint and name in judgement.sheets for judgement in found)
        path = self._folder / checkpoint / name
        return path if named and path.is_file() else None


def _history(ledger: Ledger) -> list[dict[str, Any]]:
    """In the ledger's thread: much to parse."""
    return [_shown(judgement) for judgement in ledger.judgements()]


def _shown(judgement: Judgement) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(judgement.result)
    return {**result, "sheets": judgement.sheets, "judged_at_ms": judgement.judged_at_ms}
