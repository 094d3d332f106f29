"""Peers' rounds: each peer is a script of its own that knows nothing of ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Final

from benchmarks.round.environment import PeerUnavailable, peers_python

_HERE: Final = Path(__file__).parent
_SECONDS_A_ROUND: Final = 60
_START_SECONDS: Final = 120


class Peer(StrEnum):
    """Whose rounds, by the name of its script."""

    FLOWER = "flower"
    HIVEMIND = "hivemind"


def measure(peer: Peer, num_elements: int, *, rounds: int) -> tuple[float, ...]:
    """Seconds of each of `rounds` rounds over `num_elements` of fp32. Raises `PeerUnavailable`."""
    python = peers_python()
    with tempfile.TemporaryDirectory(prefix="dah-bench-") as scratch:
        words = [str(python), str(_HERE / f"{peer.value}_rounds.py"), str(num_elements), str(rounds), scratch]
        log = Path(scratch) / "log"
        with log.open("wb") as errors:
            process = subprocess.Popen(
                words,
                stdout=subprocess.PIPE,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                cwd=scratch,
                start_new_session=True,  # or a peer's own helpers would outlive it
                env=_environment(python, scratch),
            )
            try:
                printed, _ = process.communicate(timeout=_START_SECONDS + rounds * _SECONDS_A_ROUND)
            except subprocess.TimeoutExpired:
                raise PeerUnavailable(f"{peer.value} did not end {rounds} rounds") from None
            finally:
                _kill_session(process)
        if process.returncode != 0:
            last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
            raise PeerUnavailable(f"{peer.value} failed: {last[0]}")
    seconds = json.loads(printed.splitlines()[-1])["seconds"]
    return tuple(float(one) for one in seconds)


def _environment(python: Path, scratch: str) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "TMPDIR": scratch,
    }


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
