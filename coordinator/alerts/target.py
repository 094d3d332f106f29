"""Where messages go: a webhook's address, which is a secret, in a file of the run's folder that only its owner may read.

Not in the run's config, which every worker is told.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from coordinator.secret_file import write_secret
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.tls import is_loopback

SILENCE_MINUTES: Final = 30.0
_MOST_CHARACTERS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Target:
    """One webhook."""

    webhook_url: str
    silence_minutes: float = SILENCE_MINUTES
    """Without any worker, after which a message is sent; 0 is never."""

    @property
    def host(self) -> str:
        """All of the address that may be shown."""
        return urlsplit(self.webhook_url).hostname or ""


def parse_target(text: str, silence_minutes: float) -> Target:
    """The target whose address is `text`. Raises `ConfigError` that does not repeat it."""
    url = text.strip()
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        parts.port  # noqa: B018 -- raises if it is none
    except ValueError:
        host, parts = "", urlsplit("")
    if not host or parts.fragment or not url.isprintable() or " " in url or len(url) > _MOST_CHARACTERS:
        raise ConfigError("the file must hold one line, the webhook's address: https://HOST/...")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise ConfigError(f"the webhook at {host} must be https, as what is sent there names the run's troubles")
    return Target(url, silence_minutes)


def read_target(path: Path) -> Target | None:
    """What is in the file; None if there is none. Raises `ConfigError`."""
    try:
        found = json.loads(path.read_bytes())
        return parse_target(str(found["webhook_url"]), float(found["silence_minutes"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({type(error).__name__}): set it anew with `dah coordinator alerts --url-file`"
        ) from None


def write_target(path: Path, target: Target) -> None:
    """Keep it. Raises `StorageError`."""
    write_secret(path, json.dumps(asdict(target)).encode())
