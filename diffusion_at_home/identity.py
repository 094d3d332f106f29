"""Who a worker is: an Ed25519 key that never leaves its machine."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NewType

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from diffusion_at_home.kept_weights import KeptWeights
from diffusion_at_home.signing_key import create_key, is_signed, load_key, public_bytes

WorkerId = NewType("WorkerId", str)
"""First 16 hex digits of the sha256 of the public key."""

_JOIN_CONTEXT: Final = "dah-join-v1"
_HANDED_CONTEXT: Final = "dah-contribution-v2"


@dataclass(frozen=True, slots=True)
class Handed:
    """What a worker signs of a contribution: these bytes are what I trained in this lease of this run, on so many images."""

    run_id: str
    lease_id: int
    lease_sha256: str
    """Of the lease's terms, as it got them: see `diffusion_at_home.lease_terms`."""
    weights: KeptWeights
    sha256: str
    images: int
    residual_before: str = ""
    """Commitment (hex) to what of earlier ones is in it: see `SubmitHeader`. Empty if nothing is."""
    residual_after: str = ""
    """The same to what was left out of it; empty without error feedback."""

    def message(self) -> bytes:
        """The signed bytes: a line each, the last one without its end."""
        lease = (self.run_id, str(self.lease_id), self.lease_sha256, self.weights.value)
        given = (self.sha256, str(self.images), self.residual_before, self.residual_after)
        return "\n".join((_HANDED_CONTEXT, *lease, *given)).encode()


class Identity:
    """A private key and what can be derived from it."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        """The key in `path` (raw, 32 bytes, mode 0600), made at first use. Raises `ConfigError`, `StorageError`."""
        if path.exists():
            return cls(load_key(path, "delete it to become a new worker"))
        return cls(create_key(path))

    @property
    def public_key(self) -> bytes:
        """32 bytes."""
        return public_bytes(self._key)

    @property
    def worker_id(self) -> WorkerId:
        """The name this key gives its worker."""
        return worker_id(self.public_key)

    def sign_join(self, run_id: str, signed_at_ms: int) -> bytes:
        """Signature, 64 bytes, that opens a session of `run_id`."""
        return self._key.sign(_join_message(run_id, signed_at_ms))

    def sign_contribution(self, handed: Handed) -> bytes:
        """Signature, 64 bytes, that says whose contribution it is."""
        return self._key.sign(handed.message())


def worker_id(public_key: bytes) -> WorkerId:
    """The id of the worker that owns `public_key`."""
    return WorkerId(hashlib.sha256(public_key).hexdigest()[:16])


def join_is_signed(public_key: bytes, run_id: str, signed_at_ms: int, signature: bytes) -> bool:
    """Whether `signature` proves that the caller owns `public_key`."""
    return is_signed(public_key, _join_message(run_id, signed_at_ms), signature)


def contribution_is_signed(public_key: bytes, handed: Handed, signature: bytes) -> bool:
    """Whether the owner of `public_key` says so."""
    return is_signed(public_key, handed.message(), signature)


def _join_message(run_id: str, signed_at_ms: int) -> bytes:
    return f"{_JOIN_CONTEXT}\n{run_id}\n{signed_at_ms}".encode()
