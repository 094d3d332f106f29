"""The private side of signed releases: an Ed25519 key in a file, on a machine that the coordinator's is not.

Beside the key FILE lies FILE.rotations.json once it has to do with a rotation: the line that it comes from and, if it has
passed to another key, the step to that one, after which it signs nothing more.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from diffusion_at_home.checkpoint.manifest import (
    MANIFEST_NAME,
    SIGNATURE_NAME,
    CheckpointManifest,
    load_manifest_file,
)
from diffusion_at_home.checkpoint.rotation import (
    MAX_ROTATIONS,
    ROTATIONS_SUFFIX,
    Rotation,
    RotationsFile,
    keys_of,
    load_rotations,
    rotation_message,
)
from diffusion_at_home.checkpoint.signature import CheckpointSignature, release_message
from diffusion_at_home.checkpoint.verify import verify_files
from diffusion_at_home.errors import ConfigError, storage_errors
from diffusion_at_home.signing_key import create_key, load_key, public_bytes
from diffusion_at_home.sync import sync_folder


@dataclass(frozen=True, slots=True)
class ReleaseKey:
    """A key that may sign now."""

    key: Ed25519PrivateKey
    chain: tuple[Rotation, ...]
    """By which it has become the run's."""

    @property
    def public_key(self) -> str:
        """Hex."""
        return public_bytes(self.key).hex()

    @classmethod
    def create(cls, path: Path) -> ReleaseKey:
        """A new key in the new file `path`. Raises `ConfigError` if there is something already, `StorageError`."""
        if path.exists() or _rotations(path).exists():
            raise ConfigError(f"{path} or {_rotations(path).name} exists already: name a new file")
        return cls(create_key(path), ())

    @classmethod
    def load(cls, path: Path) -> ReleaseKey:
        """The key in `path`. Raises `ConfigError`, `SignatureError` that says what is wrong with its rotations."""
        key = load_key(path, "name the file that `dah checkpoint key new` has made")
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise ConfigError(f"others may read {path} (mode {mode:o}): chmod 600 {path}, and rotate it if they did")
        release_key = cls(key, load_rotations(_rotations(path)))
        chain = release_key.chain
        if chain and chain[-1].new != release_key.public_key:
            if release_key.public_key in keys_of(chain):
                raise ConfigError(f"{path} has passed to {chain[-1].new}: use the file of that key")
            raise ConfigError(f"{_rotations(path)} is another key's: put the right file beside {path}")
        return release_key

    def rotate(self, path: Path, new_path: Path) -> ReleaseKey:
        """Make a key in the new file `new_path` to which this one, of the file `path`, passes.

        The statement lies beside this key first, which signs nothing more from then on: a process that dies before it lies beside
        the new one leaves a copy to make by hand, and never a key with two heirs. Raises `ConfigError`, `StorageError`.
        """
        if len(self.chain) >= MAX_ROTATIONS:
            raise ConfigError(
                f"{path} comes after {MAX_ROTATIONS} rotations, which is the most: name a new key to the run"
            )
        new = ReleaseKey.create(new_path)
        signature = self.key.sign(rotation_message(self.public_key, new.public_key)).hex()
        step = Rotation(old=self.public_key, new=new.public_key, signature=signature)
        rotated = ReleaseKey(new.key, (*self.chain, step))
        data = RotationsFile(rotations=rotated.chain).model_dump_json(indent=1).encode() + b"\n"
        for place in (path, new_path):
            _write(_rotations(place), data)
        return rotated

    def sign(self, manifest: bytes) -> CheckpointSignature:
        """The word of this key for the bytes of a manifest."""
        sha256 = hashlib.sha256(manifest).hexdigest()
        return CheckpointSignature(
            manifest_sha256=sha256,
            public_key=self.public_key,
            signature=self.key.sign(release_message(sha256)).hex(),
            rotations=self.chain,
        )


@dataclass(frozen=True, slots=True)
class Signed:
    """A checkpoint that has its signature."""

    manifest: CheckpointManifest
    signature: Path
    files_checked: bool
    """Whether its files were there, and as the manifest says."""


def sign_checkpoint(place: Path, key: ReleaseKey) -> Signed:
    """Write the signature beside the manifest of `place`: a checkpoint's folder, whose files are checked first, or a manifest.

    Raises `ConfigError` if the run names another release key, `IntegrityError`, `StorageError`.
    """
    whole = place.is_dir()
    path = place / MANIFEST_NAME if whole else place
    target = path.with_name(SIGNATURE_NAME)
    manifest = load_manifest_file(path)
    if whole:
        verify_files(place)
    _check_run(manifest, key)
    _write(target, key.sign(path.read_bytes()).to_bytes())
    return Signed(manifest, target, files_checked=whole)


def _check_run(manifest: CheckpointManifest, key: ReleaseKey) -> None:
    section = manifest.config.get("release")
    named = section.get("public_key") if isinstance(section, dict) else None
    if named and named not in (*keys_of(key.chain), key.public_key):
        raise ConfigError(
            f"the run {manifest.run_id} names the release key {named}, which is not {key.public_key} nor has passed to it: "
            "sign with its own"
        )


def _rotations(path: Path) -> Path:
    return path.with_name(path.name + ROTATIONS_SUFFIX)


def _write(path: Path, data: bytes) -> None:
    """Replace `path`, all or nothing, durable. Raises `StorageError`."""
    temporary = path.with_name(f"{path.name}.tmp")
    with storage_errors(path):
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
