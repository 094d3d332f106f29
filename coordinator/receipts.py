"""The run's own key, with which its coordinator signs what it has received. Made with the run, and part of its backups.

The specification names its public half, so every worker knows it before it hands anything in. It signs receipts and nothing else.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.records import Contribution
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.receipt import Received
from diffusion_at_home.runspec import RunSpec
from diffusion_at_home.signing_key import load_key, public_bytes


class ReceiptSigner:
    """Signs for one run. The same contribution has the same signature whenever it is asked for, so none is stored."""

    def __init__(self, run_id: str, key: Ed25519PrivateKey) -> None:
        self._run_id = run_id
        self._key = key

    @classmethod
    def load(cls, path: Path, spec: RunSpec) -> ReceiptSigner:
        """With the key in `path`. Raises `ConfigError` if it is not the one that `spec` names."""
        key = load_key(path, "restore it from a backup of the run")
        if public_bytes(key).hex() != spec.receipt_key:
            raise ConfigError(f"{path} is not the key of the run {spec.run_id}: restore it from a backup of the run")
        return cls(spec.run_id, key)

    def sign(self, contribution: Contribution) -> bytes:
        """64 bytes: this has been received."""
        received = Received(
            run_id=self._run_id,
            contribution_id=contribution.contribution_id,
            worker_id=contribution.worker_id,
            lease_id=contribution.lease_id,
            sha256=contribution.sha256,
            images=contribution.images,
            round=contribution.round_number,
        )
        return self._key.sign(received.message())
