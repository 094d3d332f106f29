"""One-time codes by which the operator, who may write the run's folder, lets a browser in.

The folder has the hash of the newest code and until when it is good; a code that was used, or is too old, is gone. Who can write
there could give any order without a page: a code gives nobody more than that.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from coordinator.records import now_ms
from coordinator.run_folder import RunFolder
from coordinator.secret_file import write_secret
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.tls import split_pin

GOOD_FOR: Final = timedelta(minutes=10)
LOGIN_PATH: Final = "/operator/login"

_MOST_CHARACTERS: Final = 128


@dataclass(frozen=True, slots=True)
class Login:
    """A code that was just made."""

    address: str
    """To be opened in a browser; what stands behind the # is sent once, by the page."""
    minutes: float
    """That it is good for."""
    fingerprint: str
    """Of the certificate that the browser will show, if that is the run's own; else empty."""


def make_login(folder: RunFolder) -> Login:
    """A new code for the run in `folder`, instead of any that is there. Raises `ConfigError`, `StorageError`."""
    folder.check()
    if not (folder.is_running() and folder.address.is_file()):
        raise ConfigError(f"{folder.root} is not served now: start its coordinator, which has the page")
    url, pin = split_pin(folder.address.read_text())
    code = secrets.token_urlsafe(32)
    until = now_ms() + int(GOOD_FOR / timedelta(milliseconds=1))
    write_secret(folder.login, json.dumps({"sha256": _hash(code), "until_ms": until}).encode())
    return Login(f"{url}{LOGIN_PATH}#{code}", GOOD_FOR / timedelta(minutes=1), pin)


def redeem(folder: RunFolder, code: str) -> bool:
    """Whether `code` is the one that was made last, is not too old, and was never used: from here on it was."""
    if not 0 < len(code) <= _MOST_CHARACTERS:
        return False
    try:
        found = json.loads(folder.login.read_bytes())
        kept, until_ms = str(found["sha256"]), int(found["until_ms"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if not hmac.compare_digest(kept.encode(), _hash(code).encode()) or now_ms() >= until_ms:
        return False
    try:
        folder.login.unlink()  # of several who come at once, one deletes it
    except FileNotFoundError:
        return False
    return True


def _hash(code: str) -> str:
    return hashlib.sha256(code.encode(errors="replace")).hexdigest()
