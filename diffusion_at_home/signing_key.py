"""Ed25519 keys in files of 32 bytes that only their owner reads, and the check of what such a key has signed.

Whatever a key signs begins with a context of its own, `dah-<what>-v<n>`, and a line end: a signature of one kind is none of
another, also where one key were used for two.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field

from diffusion_at_home.errors import ConfigError, storage_errors
from diffusion_at_home.sync import sync_folder

KEY_BYTES: Final = 32
_HEX: Final = re.compile(r"[0-9a-f]{64}")

PublicKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""32 bytes in hex."""

Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
"""64 bytes in hex."""


def create_key(path: Path) -> Ed25519PrivateKey:
    """A new key in the new file `path`, durable before it is used. Raises `StorageError`, also if the file exists."""
    key = Ed25519PrivateKey.generate()
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.private_bytes_raw())
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    return key


def load_key(path: Path, remedy: str) -> Ed25519PrivateKey:
    """The key in `path`. Raises `ConfigError` if it cannot be read, and with `remedy` if it is none."""
    try:
        with path.open("rb") as file:
            data = file.read(KEY_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist: {remedy}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): see that {path} is a file of yours") from None
    if len(data) != KEY_BYTES:
        raise ConfigError(f"{path} is not an Ed25519 key of {KEY_BYTES} bytes: {remedy}")
    return Ed25519PrivateKey.from_private_bytes(data)


def parse_public_key(text: str, option: str) -> str:
    """The public key (hex) that a person has given as `option`; an empty one is none. Raises `ConfigError`."""
    key = text.strip().lower()
    if key and not _HEX.fullmatch(key):
        raise ConfigError(f"{option} {text!r} is no public key: give all of its 64 hexadecimal digits")
    return key


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """32 bytes, for everybody."""
    return key.public_key().public_bytes_raw()


def is_signed(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the owner of `public_key` has signed `message`."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
