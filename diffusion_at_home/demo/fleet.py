"""The demo's processes: one coordinator, some workers, each exactly the command a person would type."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from diffusion_at_home.errors import StopProcess

_STOP_SECONDS: Final = 30.0
"""What a process has between SIGTERM and SIGKILL: time to hand in its lease."""

_LAST_LINES: Final = 5


@dataclass(slots=True)
class _Member:
    name: str
    process: subprocess.Popen[bytes]
    log: Path
    reported: bool = False


class Fleet:
    """Starts `dah` commands, watches them, and stops all of them when left."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._members: list[_Member] = []

    def __enter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str, arguments: Sequence[str]) -> None:
        """Start `dah` with `arguments`; what it prints goes to `name`.out."""
        log = self._logs / f"{name}.out"
        with log.open("ab") as out:
            self._members.append(_Member(name, _spawn(arguments, out), log))

    def dead(self) -> list[str]:
        """One sentence for each process that has ended on its own since the last call."""
        sentences: list[str] = []
        for member in self._members:
            code = member.process.poll()
            if code is not None and not member.reported:
                member.reported = True
                sentences.append(f"{member.name} ended with code {code}: {_tail(member.log)}")
        return sentences

    def alive(self, prefix: str) -> int:
        """Processes that run whose name starts with `prefix`."""
        return sum(m.process.poll() is None for m in self._members if m.name.startswith(prefix))

    def stop(self, prefix: str = "") -> None:
        """SIGTERM to those whose name starts with `prefix`, the last started first, then wait; SIGKILL if need be."""
        members = [member for member in reversed(self._members) if member.name.startswith(prefix)]
        for member in members:
            member.reported = True
            if member.process.poll() is None:
                member.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        for member in members:
            try:
                member.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                member.process.kill()
                member.process.wait()


def wait_for_address(fleet: Fleet, address: Path, seconds: float = 120.0) -> str:
    """The URL that the coordinator writes to `address` when it is open. Raises `StopProcess` if it dies first."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if address.is_file() and (url := address.read_text().strip()):
            return url
        if sentences := fleet.dead():
            raise _Died(sentences[0])
        time.sleep(0.1)
    raise _Died(f"the coordinator has not opened within {seconds:.0f} s: look at its log beside {address}")


class _Died(StopProcess):
    """A process that the demo needs has ended."""


def check(fleet: Fleet) -> list[str]:
    """Sentences on workers that ended; raises if the coordinator did, or nobody is left to train."""
    sentences = fleet.dead()
    for sentence in sentences:
        if sentence.startswith("coordinator"):
            raise _Died(sentence)
    if fleet.alive("worker") == 0:
        raise _Died(sentences[0] if sentences else "no worker is left")
    return sentences


def _spawn(arguments: Sequence[str], out: IO[bytes]) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C reaches only the demo, which then stops the others in order.
    return subprocess.Popen(  # noqa: S603 -- our own command
        [sys.executable, "-m", "diffusion_at_home", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return " / ".join(line.strip() for line in lines[-_LAST_LINES:] if line.strip()) or "it printed nothing"
