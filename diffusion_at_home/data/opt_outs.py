"""Who does not want a picture trained on: a list of files by their sha256 and of addresses, one a line."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from diffusion_at_home.data.sources.source import Raw
from diffusion_at_home.errors import ConfigError

_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class OptOuts:
    """The pictures that are left out."""

    sha256: frozenset[bytes] = frozenset()
    """Of their original files (32 bytes each)."""
    addresses: frozenset[str] = frozenset()
    """URLs without what makes no difference to what they name."""

    def reason_against(self, raw: Raw) -> str:
        """Which entry `raw` is on the list by; empty if it is not on it."""
        for url in (raw.url, raw.source):
            if self.addresses and _address(url) in self.addresses:
                return url
        if self.sha256 and (digest := hashlib.sha256(raw.image)).digest() in self.sha256:
            return f"sha256 {digest.hexdigest()}"
        return ""


def read_opt_outs(path: Path) -> OptOuts:
    """Read a list of opt-outs: sha256 of original files (hex) or http(s) URLs, one a line.

    '#' begins a comment at the start of a line or after a space.

    Raises:
        ConfigError: the file cannot be read, or a line is neither; it names file and line.
    """
    sha256, addresses = set[bytes](), set[str]()
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                entry = re.split(r"(?:^|\s)#", line.decode("utf-8-sig" if number == 1 else "utf-8"))[0].strip()
                if _SHA256.fullmatch(entry):
                    sha256.add(bytes.fromhex(entry))
                elif address := _address(entry):
                    addresses.add(address)
                elif entry:
                    raise ConfigError(
                        f"{path}, line {number}: {entry[:80]!r} is neither a sha256 (64 hex digits) nor an http(s) URL"
                    )
    except UnicodeDecodeError:
        raise ConfigError(f"{path}, line {number}: this is not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"the list of opt-outs {path} cannot be read ({error.strerror})") from None
    return OptOuts(frozenset(sha256), frozenset(addresses))


def _address(url: str) -> str:
    """`url` without scheme and fragment, its host in lower case; empty if it is no http(s) URL."""
    if any(character.isspace() for character in url):
        return ""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        return ""
    return f"{parts.netloc.lower()}{parts.path or '/'}?{parts.query}"
