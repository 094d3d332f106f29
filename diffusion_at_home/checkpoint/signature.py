"""A checkpoint's signature: the release key's word for one manifest. `signature.json` in the folder.

It signs the sha256 of `manifest.json`, which has the sha256 of every other file. It comes from a server that nobody trusts: it
is bounded, strictly parsed, and written in one way only, so that no other bytes are the same signature.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import ValidationError, model_validator

from diffusion_at_home.checkpoint.manifest import MANIFEST_NAME, SIGNATURE_NAME, Sha256
from diffusion_at_home.checkpoint.rotation import Chain, Rotation, line_from
from diffusion_at_home.config.toml import Section, first_mistake
from diffusion_at_home.errors import ConfigError, SignatureError
from diffusion_at_home.signing_key import PublicKey, Signature, is_signed

MAX_SIGNATURE_BYTES: Final = 64 * 2**10
_CONTEXT: Final = "dah-release-v1"
_REMEDY: Final = "do not use this checkpoint"


class CheckpointSignature(Section):
    """Who vouches for which manifest."""

    format: Literal[1] = 1
    """Of this file."""
    manifest_sha256: Sha256
    """Of `manifest.json`, byte for byte."""
    public_key: PublicKey
    """The release key."""
    signature: Signature
    """By it, over "dah-release-v1\\n" + manifest_sha256."""
    rotations: Chain = ()
    """By which the run's first release key has passed to this one, the oldest first."""

    @model_validator(mode="after")
    def _ends_in_its_key(self) -> Self:
        if self.rotations and self.rotations[-1].new != self.public_key:
            raise ValueError(f"its chain of rotations does not end in its key {self.public_key[:16]}...")
        return self

    def to_bytes(self) -> bytes:
        """The file: these bytes and no others."""
        return (self.model_dump_json(indent=1) + "\n").encode()


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose word a reader takes."""

    root: str = ""
    """A release key (hex) that the reader has from where it trusts it; empty if it has none."""
    rotations: tuple[Rotation, ...] = ()
    """That it knows of, besides those in the signature."""
    required: bool = False
    """Whether an unsigned checkpoint is refused."""


@dataclass(frozen=True, slots=True)
class Vouched:
    """What a signature was found to be."""

    public_key: str
    """That has signed (hex)."""
    trusted: bool
    """Whether it is the reader's, or the one which that has passed to; else nobody but the file itself names it."""


def release_message(manifest_sha256: str) -> bytes:
    """What a release key signs."""
    return f"{_CONTEXT}\n{manifest_sha256}".encode()


def parse_signature(data: bytes, source: str) -> CheckpointSignature:
    """Parse what came from `source`. Raises `SignatureError`."""
    if len(data) > MAX_SIGNATURE_BYTES:
        raise SignatureError(f"{source} is larger than any signature: {_REMEDY}")
    try:
        signature = CheckpointSignature.model_validate_json(data)
    except ValidationError as error:
        raise SignatureError(f"{source} is not a checkpoint's signature ({first_mistake(error)}): {_REMEDY}") from None
    if signature.to_bytes() != data:
        raise SignatureError(f"{source} is not written as a signature is: {_REMEDY}")
    return signature


def check_signature(data: bytes | None, manifest: bytes, trust: Trust, source: str) -> Vouched | None:
    """Who vouches for the bytes `manifest`, by the bytes of its `signature.json`; None if nobody does and nobody must.

    Raises `SignatureError` that names `source` and says what is wrong: nothing signed, garbage, the signature of another
    manifest, a forgery, an old key's, a foreign key's. `ConfigError` if one is required and nobody names a key.
    """
    if data is None:
        if trust.required:
            raise SignatureError(f"there is no {source}: nobody vouches for this checkpoint, {_REMEDY}")
        return None
    signature = parse_signature(data, source)
    if signature.manifest_sha256 != hashlib.sha256(manifest).hexdigest():
        raise SignatureError(f"{source} is the signature of another manifest: {_REMEDY}")
    key = signature.public_key
    if not is_signed(
        bytes.fromhex(key), release_message(signature.manifest_sha256), bytes.fromhex(signature.signature)
    ):
        raise SignatureError(f"{source} is forged, its key {key[:16]}... has not signed it: {_REMEDY}")
    known = (*trust.rotations, *signature.rotations)
    newest = line_from(key, known)[-1]
    if newest != key:
        raise SignatureError(
            f"{source} is by the old release key {key[:16]}..., which has passed to {newest}: {_REMEDY}"
        )
    if not trust.root:
        if trust.required:
            raise ConfigError("nobody names a release key whose signature to require: give it with --key")
        return Vouched(key, trusted=False)
    line = line_from(trust.root, known)
    if key == line[-1]:
        return Vouched(key, trusted=True)
    if trust.root in line_from(key, known):
        raise SignatureError(f"{source} is by {key[:16]}..., a key older than {trust.root}: {_REMEDY}")
    raise SignatureError(f"{source} is by the foreign key {key}, not by the release key {line[-1]}: {_REMEDY}")


def check_folder(folder: Path, trust: Trust) -> Vouched | None:
    """`check_signature` of the checkpoint in `folder`."""
    manifest = folder / MANIFEST_NAME
    return check_signature(read_signature(folder), manifest.read_bytes(), trust, f"{folder / SIGNATURE_NAME}")


def read_signature(folder: Path) -> bytes | None:
    """`signature.json` of `folder`, or as much of it as shows that it is none; None if there is none. Raises `SignatureError`."""
    path = folder / SIGNATURE_NAME
    if not path.exists() and not path.is_symlink():
        return None
    if not path.is_file() or path.is_symlink():
        raise SignatureError(f"{path} is not a file: {_REMEDY}")
    try:
        with path.open("rb") as file:
            return file.read(MAX_SIGNATURE_BYTES + 1)
    except OSError as error:
        raise SignatureError(f"{path} cannot be read ({error.strerror}): {_REMEDY}") from None
