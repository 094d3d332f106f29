"""Sees when somebody last used a Linux machine, without root: on Wayland, on X11, on a console, over ssh.

- GNOME tells to the millisecond (Mutter's IdleMonitor, on the session's bus), and so does `xprintidle` on X11.
- Other desktops tell logind when they think that nobody is there, which may be minutes later (IdleHint). One that has never told
  it anything may be one that never does: that is said, and hinders nothing.
- The kernel notes when a terminal was last read from, within 8 seconds (the atime of /dev/tty1 and /dev/pts/0). It notes
  nothing of the kind for /dev/input, and what Windows sees is hidden from WSL.
"""

from __future__ import annotations

import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worker.conditions.idle import Input

Run = Callable[[Sequence[str]], str | None]
"""What a program prints, or None if it is not there or fails."""

_MONITOR: Final = "org.gnome.Mutter.IdleMonitor"
_MUTTER: Final = ("busctl", "--user", "call", _MONITOR, "/org/gnome/Mutter/IdleMonitor/Core", _MONITOR, "GetIdletime")
_SESSIONS: Final = ("loginctl", "list-sessions", "--no-legend")
_SESSION: Final = (
    "loginctl",
    "show-session",
    *(f"--property={name}" for name in ("Class", "Type", "State", "User", "IdleHint", "IdleSinceHint")),
)

_GRAPHICAL: Final = ("x11", "wayland", "mir")

_HOW_TO_SEE: Final = "install xprintidle (on X11), or let the desktop tell logind when it is idle"


@dataclass(frozen=True, slots=True)
class _Desktop:
    """A person's graphical session, as logind knows it."""

    uid: int
    idle: bool
    since: float
    """Of `idle`, in seconds since the epoch; 0 if it has never changed."""


class DesktopInput:
    """See `InputSensor`."""

    def __init__(
        self,
        run: Run,
        terminal_times: Callable[[], Iterable[float]],
        environment: Mapping[str, str],
        now: Callable[[], float],
        uid: int,
    ) -> None:
        """`terminal_times` are of the last input to each terminal, in seconds since the epoch, like `now`."""
        self._run = run
        self._terminal_times = terminal_times
        self._environment = environment
        self._now = now
        self._uid = uid

    def __call__(self) -> Input:
        """See `InputSensor`."""
        now = self._now()
        idle = [max(now - then, 0.0) for then in self._terminal_times()]
        unseen = ""
        own = self._own_desktop()
        if own is not None:
            idle.append(own)
        desktops = self._desktops()
        for desktop in desktops or ():
            if own is not None and desktop.uid == self._uid:
                continue
            if desktop.since == 0:
                unseen = f"the desktop has not said yet whether it is in use, only terminals count: {_HOW_TO_SEE}"
            else:
                idle.append(max(now - desktop.since, 0.0) if desktop.idle else 0.0)
        if own is None and desktops is None and self._has_display():
            unseen = f"keyboard and mouse of the desktop cannot be seen, only terminals count: {_HOW_TO_SEE}"
        return Input(min(idle, default=math.inf), unseen)

    def _own_desktop(self) -> float | None:
        """Seconds, exactly, of the session that this process belongs to."""
        said = self._run(_MUTTER) if "DBUS_SESSION_BUS_ADDRESS" in self._environment else None
        if said is not None and said.startswith("t "):
            return _milliseconds(said[2:])
        return _milliseconds(self._run(("xprintidle",)) or "") if "DISPLAY" in self._environment else None

    def _desktops(self) -> list[_Desktop] | None:
        """Of everyone; None if logind does not answer."""
        listed = self._run(_SESSIONS)
        if listed is None:
            return None
        names = [line.split()[0] for line in listed.splitlines() if line.strip()]
        said = (self._run((*_SESSION, name)) for name in names)  # one that has ended meanwhile says nothing
        return list(_graphical(text for text in said if text))

    def _has_display(self) -> bool:
        return "DISPLAY" in self._environment or "WAYLAND_DISPLAY" in self._environment


def _graphical(sessions: Iterable[str]) -> Iterator[_Desktop]:
    for text in sessions:
        said = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        if said.get("Class") != "user" or said.get("Type") not in _GRAPHICAL or said.get("State") == "closing":
            continue
        since, uid = said.get("IdleSinceHint", ""), said.get("User", "")
        yield _Desktop(
            uid=int(uid) if uid.isdecimal() else -1,
            idle=said.get("IdleHint") == "yes",
            since=int(since) / 1e6 if since.isdecimal() else 0.0,
        )


def _milliseconds(text: str) -> float | None:
    """As seconds."""
    return int(text) / 1000 if text.strip().isdecimal() else None


def _wsl_input() -> Input:
    return Input(math.inf, "the keyboard and mouse of Windows cannot be seen from WSL: set when.hours instead")


def _other_input() -> Input:
    return Input(math.inf, f"keyboard and mouse cannot be seen on {platform.system()}: set when.hours instead")


def this_machines_input() -> Callable[[], Input]:
    """The sensor that suits this system."""
    if platform.system() != "Linux":
        return _other_input
    if "microsoft" in platform.release().lower():
        return _wsl_input
    return DesktopInput(_printed, _terminal_times, os.environ, time.time, os.getuid())


def _terminal_times() -> Iterator[float]:
    for pattern in ("pts/[0-9]*", "tty[1-9]*"):
        for path in Path("/dev").glob(pattern):
            try:
                yield path.stat().st_atime
            except OSError:  # closed meanwhile
                continue


def _printed(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 -- fixed words, and session names that logind made
            command, capture_output=True, text=True, errors="replace", timeout=3, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
