"""The systemd of the user who runs this, asked by its command line; and the file that it reads."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from diffusion_at_home.errors import ConfigError, storage_errors
from worker.atomic_file import write_atomically

UNIT: Final = "diffusion-at-home-worker.service"

_SECONDS: Final = 30.0
"""Longest that systemd may take to answer."""


class UserManager:
    """One user's manager, if there is one, and the unit's file in `folder`."""

    def __init__(self, folder: Path, programs: str | None = None) -> None:
        """`programs` is where systemctl and systemd-run are looked for; None is the PATH."""
        self.file = folder / UNIT
        self._systemctl = shutil.which("systemctl", path=programs)
        self._systemd_run = shutil.which("systemd-run", path=programs)

    def is_there(self) -> bool:
        """Whether it answers: it does not in containers, in a WSL without systemd, nor for who came by `su`."""
        return self._ask("show-environment") is not None

    def can_isolate(self) -> bool:
        """Whether it may give a service namespaces of its own: tried with a service that does nothing."""
        settings = ("PrivateUsers=yes", "ProtectSystem=strict", "ProtectHome=tmpfs", "PrivateTmp=yes")
        trial = [f"--property={setting}" for setting in settings]
        command = [self._systemd_run, "--user", "--quiet", "--wait", "--collect", *trial, "--", "/bin/true"]
        return _answer(command, _SECONDS) is not None

    def write(self, text: str) -> None:
        """Put the unit where the manager looks for it. Raises `StorageError`."""
        write_atomically(self.file, text.encode())

    def start(self) -> None:
        """Start the unit as it is now, and whenever the manager starts. One that runs hands in first. Raises `ConfigError`."""
        self._must("daemon-reload")
        self._must("enable", UNIT)
        self._must("restart", UNIT)

    def remove(self) -> bool:
        """Let it hand in, stop it, and forget it; whether there was one. Raises `ConfigError`, `StorageError`."""
        was_there, answers = self.file.exists(), self.is_there()
        if was_there and answers:
            self._must("disable", "--now", UNIT)
        with storage_errors(self.file.parent):
            self.file.unlink(missing_ok=True)
        if was_there and answers:
            self._must("daemon-reload")
        return was_there

    def state(self) -> dict[str, str]:
        """What it says of the unit, by systemd's own names; empty if it does not answer."""
        names = ("ActiveState", "SubState", "UnitFileState", "Result", "ExecMainStatus", "NRestarts")
        told = self._ask("show", UNIT, f"--property={','.join(names)}") or ""
        return dict(line.split("=", 1) for line in told.splitlines() if "=" in line)

    def _ask(self, *words: str) -> str | None:
        return _answer([self._systemctl, "--user", *words], _SECONDS)

    def _must(self, *words: str) -> None:
        """It takes the time that it takes: a worker that stops hands in first."""
        if _answer([self._systemctl, "--user", *words], None) is None:
            raise ConfigError(f"`systemctl --user {' '.join(words)}` failed: run it yourself to see why")


def _answer(command: Sequence[str | None], seconds: float | None) -> str | None:
    """What `command` prints, or None if it fails or there is no such program."""
    words = [word for word in command if word is not None]
    if len(words) < len(command):
        return None
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=seconds)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
