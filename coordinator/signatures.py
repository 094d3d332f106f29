"""Signatures of published checkpoints: files that the operator puts beside the manifests, each checked before it is served.

The key that makes them is never here. What does not hold is not served, and is a problem by name until it holds, or is gone.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coordinator.problems import Problems, signature_refused
from coordinator.records import Checkpoint
from coordinator.run_folder import RunFolder
from diffusion_at_home.checkpoint.manifest import MANIFEST_NAME, SIGNATURE_NAME
from diffusion_at_home.checkpoint.rotation import ROTATIONS_NAME, ROTATIONS_SUFFIX, Rotation, keys_of, load_rotations
from diffusion_at_home.checkpoint.signature import Trust, check_signature, parse_signature, read_signature
from diffusion_at_home.errors import SignatureError

_Stamp = tuple[tuple[int, int, int], ...]
_NOTHING: Final = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class _Checked:
    stamp: _Stamp
    data: bytes | None


class Signatures:
    """Those of one run. Reads small files; may be used from any thread."""

    def __init__(self, *, folder: RunFolder, release_key: str, problems: Problems) -> None:
        """`release_key` is the one that the run's config names (hex), or empty: then a signature must hold by itself."""
        self._folder = folder
        self._release_key = release_key
        self._problems = problems
        self._lock = threading.Lock()
        self._checked: dict[str, _Checked] = {}
        self._chain: tuple[_Stamp, tuple[Rotation, ...] | None] = ((), ())

    def rotations(self) -> tuple[Rotation, ...]:
        """From the config's key to the one that signs now; none also while the file is wrong."""
        with self._lock:
            return self._rotations() or ()

    def of(self, checkpoint: Checkpoint) -> bytes | None:
        """The signature of a published checkpoint, None if there is none that may be served."""
        with self._lock:
            rotations = self._rotations()
            folder = self._folder.checkpoints / checkpoint.name
            stamp = (*self._chain[0], _stamp(folder / SIGNATURE_NAME))
            known = self._checked.get(checkpoint.name)
            if known is None or known.stamp != stamp:
                known = _Checked(stamp, self._check(checkpoint, folder, rotations))
                self._checked[checkpoint.name] = known
            return known.data

    def forget(self, name: str) -> None:
        """The checkpoint `name` is not offered any more."""
        self._checked.pop(name, None)  # without the lock, which is held while a disk is waited for
        self._problems.clear(signature_refused(name))

    def _check(self, checkpoint: Checkpoint, folder: Path, rotations: tuple[Rotation, ...] | None) -> bytes | None:
        problem = signature_refused(checkpoint.name)
        try:
            data = read_signature(folder)
            if data is not None:
                self._check_data(data, checkpoint, folder, rotations)
        except FileNotFoundError:
            return None  # it has gone meanwhile
        except SignatureError as error:
            self._problems.set(problem, f"the signature of {checkpoint.name} is not served: {error}")
            return None
        self._problems.clear(problem)
        return data

    def _check_data(
        self, data: bytes, checkpoint: Checkpoint, folder: Path, rotations: tuple[Rotation, ...] | None
    ) -> None:
        manifest = (folder / MANIFEST_NAME).read_bytes()
        if hashlib.sha256(manifest).hexdigest() != checkpoint.manifest_sha256:
            raise SignatureError(f"{MANIFEST_NAME} is not what it was")
        if rotations is None:
            raise SignatureError(f"{ROTATIONS_NAME} is wrong, so nobody knows which key signs now")
        trust = Trust(self._release_key, rotations)
        check_signature(data, manifest, trust, str(folder / SIGNATURE_NAME))
        if not set(parse_signature(data, SIGNATURE_NAME).rotations) <= set(rotations):
            raise SignatureError(
                f"its key has come by a rotation that {self._folder.rotations} does not hold: copy the file "
                f"*{ROTATIONS_SUFFIX} there that lies beside the key, or an old key would go on to be believed"
            )

    def _rotations(self) -> tuple[Rotation, ...] | None:
        """None while the file is wrong."""
        path = self._folder.rotations
        stamp = (_stamp(path),)
        if self._chain[0] != stamp:
            self._chain = (stamp, self._load(path))
        return self._chain[1]

    def _load(self, path: Path) -> tuple[Rotation, ...] | None:
        problem = signature_refused(ROTATIONS_NAME)
        try:
            chain = load_rotations(path)
            if chain and self._release_key not in keys_of(chain):
                raise SignatureError(
                    f"{path} does not lead on from the run's release key {self._release_key or '(none)'}"
                )
        except SignatureError as error:
            self._problems.set(problem, f"no signature is served: {error}")
            return None
        self._problems.clear(problem)
        return chain


def _stamp(path: Path) -> tuple[int, int, int]:
    """What changes whenever the file does."""
    try:
        found = path.stat()
    except OSError:
        return _NOTHING
    return found.st_mtime_ns, found.st_size, found.st_ino
