"""The worker's log for people: its last lines, those that come, and each as one readable line."""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from diffusion_at_home.errors import ConfigError

_LOOK_SECONDS: Final = 0.3
_APART: Final = ("timestamp", "event", "level")


def last_lines(path: Path, count: int) -> list[str]:
    """The last `count` whole lines of the log, oldest first. Raises `ConfigError` if there is no log."""
    lines: deque[str] = deque(maxlen=count)
    for part in (path.with_name(f"{path.name}.1"), path):  # a full file is renamed, and a new one begun
        if part.exists():
            with part.open(encoding="utf-8", errors="replace") as file:
                lines.extend(line for line in file if line.endswith("\n"))
    if not path.exists():
        raise ConfigError(f"no worker has run in {path.parent}: start one with dah worker run")
    return list(lines)


def coming_lines(path: Path, ended: threading.Event) -> Iterator[str]:
    """Each line that is written from now on, until `ended` is set; goes on in the next file when one is full."""
    file = path.open(encoding="utf-8", errors="replace")
    file.seek(0, os.SEEK_END)
    line = ""
    try:
        while not ended.is_set():
            full = _is_another(path, file.fileno())  # asked first: what it had until then is read before the next one
            line += file.readline()
            if line.endswith("\n"):
                yield line
                line = ""
            elif full:
                file.close()
                file, line = path.open(encoding="utf-8", errors="replace"), ""
            else:
                ended.wait(_LOOK_SECONDS)
    finally:
        file.close()


def readable(line: str) -> str:
    """An event for people: local time, what happened, and its facts; what is no event stays as it is."""
    try:
        event = json.loads(line)
        moment = datetime.fromisoformat(event["timestamp"]).astimezone()
        name = str(event["event"]).replace("_", " ")
    except (ValueError, KeyError, TypeError, RecursionError):
        return line.rstrip("\n")
    facts = [f"{key}={value}" for key, value in event.items() if key not in _APART and value is not None]
    level = "" if event.get("level", "info") == "info" else f"{event['level']}: "
    return " ".join([f"{moment:%Y-%m-%d %H:%M:%S}", f"{level}{name}", *facts])


def _is_another(path: Path, descriptor: int) -> bool:
    """Whether `path` is no longer the file that is open."""
    try:
        return not os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False  # between the renaming and the new one
