"""What `dah coordinator alerts` does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from coordinator.alerts.alert import Alert, AlertKind, message
from coordinator.alerts.post import post
from coordinator.alerts.target import SILENCE_MINUTES, parse_target, read_target, write_target
from coordinator.ledger import Ledger
from coordinator.records import now_ms
from coordinator.run_folder import RunFolder
from diffusion_at_home.errors import ConfigError, storage_errors


def set_alerts(
    folder: RunFolder, *, url_file: Path | None, silence_minutes: float | None, off: bool, test: bool
) -> dict[str, Any]:
    """Set who is told, or nobody, and try it; says who is, but never the whole address.

    A coordinator that runs hears of it within seconds. Raises `ConfigError`, `RetryCall`, `StorageError`.
    """
    folder.check()
    if off and (url_file is not None or silence_minutes is not None or test):
        raise ConfigError("--off goes with nothing else: leave it out to set or to test")
    if silence_minutes is not None and url_file is None and read_target(folder.alerts) is None:
        raise ConfigError("nobody is told yet: name the file with the webhook's address, --url-file FILE")
    if off:
        with storage_errors(folder.alerts):
            folder.alerts.unlink(missing_ok=True)
    if url_file is not None:
        write_target(folder.alerts, parse_target(_line(url_file), SILENCE_MINUTES))
    target = read_target(folder.alerts)
    if target is not None and silence_minutes is not None:
        target = replace(target, silence_minutes=silence_minutes)
        write_target(folder.alerts, target)
    if test:
        if target is None:
            raise ConfigError("nobody is told yet: name the file with the webhook's address, --url-file FILE")
        sentence = "a message for a test: this is where you are told of problems"
        post(target, message(_run_id(folder), _address(folder), [Alert("test", AlertKind.TEST, sentence, now_ms())]))
    return {
        "on": target is not None,
        "host": target.host if target else None,
        "silence_minutes": target.silence_minutes if target else None,
        "tested": test,
    }


def _line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({type(error).__name__}): name a file with the webhook's address"
        ) from None


def _run_id(folder: RunFolder) -> str:
    ledger = Ledger(folder.ledger, read_only=True)
    try:
        return ledger.run_id()
    finally:
        ledger.close()


def _address(folder: RunFolder) -> str:
    return folder.address.read_text() if folder.is_running() and folder.address.is_file() else ""
