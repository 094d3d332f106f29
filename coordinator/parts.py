"""What a run consists of besides its ledger: files, each with the digest that vouches for it; and states.

They never change, but for what its operator puts there: signatures of checkpoints, and rotations of the key that makes them.

The one list of them: who copies or checks a run as a whole asks here. What is not listed is either made again (`exports`, the
animation of judgements, `address`) or worth nothing elsewhere (`staging`, the log).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coordinator.blobs import file_sha256
from coordinator.ledger import Ledger
from coordinator.receipts import ReceiptSigner
from coordinator.run_folder import RunFolder
from diffusion_at_home.checkpoint.manifest import MANIFEST_NAME, SIGNATURE_NAME, parse_manifest
from diffusion_at_home.errors import ConfigError, DataError, IntegrityError
from diffusion_at_home.runspec import RunSpec

FOLDERS: Final = ("blobs", "held_out", "autoencoder", "checkpoints", "tls", "encoder", "pictures", "judgements")
"""Below these lie parts and nothing else."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a run."""

    path: str
    """In the run's folder."""
    sha256: str
    """Of the whole file (hex), as the ledger says, or what the ledger names."""
    may_change: bool = False
    """Whether the file may be another one by the next time."""


class Gone(Exception):
    """A file that was named is not there: it was deleted meanwhile, or is lost."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path


def parts(folder: RunFolder, ledger: Ledger) -> list[Part]:
    """All that `ledger` names, of the run in `folder`, where the specification and the manifests are read.

    Raises `IntegrityError` that names what is damaged, `Gone` for what is not there.
    """
    spec = spec_of(folder, ledger)
    return [
        *(Part(f"{folder.blobs.name}/{sha256}", sha256) for sha256 in sorted(_blobs(folder, ledger, spec))),
        *(Part(f"{folder.held_out.name}/{entry.name}", entry.sha256) for entry in spec.data.held_out),
        *autoencoder_parts(folder, spec),
        # Nothing names these; who reads a certificate and a key finds out whether they are a pair.
        *(Part(f"{folder.tls.name}/{path.name}", file_sha256(path)) for path in sorted(folder.tls.glob("*.pem"))),
        _receipt_key(folder, spec),
        *_put_there(folder, folder.rotations),
        *_put_there(folder, folder.alerts),
        *_put_there(folder, folder.elsewhere),
        *_checkpoints(folder, ledger),
        *(Part(path, sha256) for path, sha256 in sorted(ledger.judging_files().items())),
        *_sheets(folder, ledger),
    ]


def spec_of(folder: RunFolder, ledger: Ledger) -> RunSpec:
    """The run's specification. Raises as `parts` does."""
    sha256 = ledger.spec_sha256()
    return RunSpec.from_bytes(_read(folder.blobs / sha256, sha256))


def damaged(path: Path) -> IntegrityError:
    """That `path` is not what its digest says."""
    return IntegrityError(f"{path} is damaged, its digest is another one: take it from another backup")


def autoencoder_parts(folder: RunFolder, spec: RunSpec) -> list[Part]:
    """The run's copy of its autoencoder; none of a run in pixels."""
    files = spec.data.latents.files if spec.data.latents else ()
    return [Part(f"{folder.autoencoder.name}/{file.name}", file.sha256) for file in files]


def check_autoencoder(folder: RunFolder, spec: RunSpec) -> None:
    """Raise `DataError` that names what of that copy is not what the data set says: nobody would see it in a checkpoint."""
    for part in autoencoder_parts(folder, spec):
        path = folder.root / part.path
        if not path.is_file() or file_sha256(path) != part.sha256:
            raise DataError(f"{path} is damaged or missing: restore it from a backup or from the data set")


def states(folder: RunFolder) -> list[Path]:
    """The newest one, from which the run goes on, and the anchors. Raises `Gone` if there is none."""
    saved = {state_version(path.name): path for path in folder.state.glob("state-*.safetensors")}
    if not saved:
        raise Gone(folder.state / "state-*.safetensors")
    return [saved[max(saved)], *folder.state.glob("anchor-*.safetensors")]


def state_version(name: str) -> int:
    """Whose state it is, by the name of its file."""
    return int(name.removesuffix(".safetensors").rpartition("-")[2])


def _blobs(folder: RunFolder, ledger: Ledger, spec: RunSpec) -> set[str]:
    """All that are named but for the updates and snapshots that the coordinator may have deleted.

    The ledger names those for ever. Needed are one snapshot and the updates since; of the others, those that are there.
    """
    history = ledger.versions()
    there = {path.name for path in folder.blobs.iterdir()}
    snapshots = [version for version in history if version.snapshot_sha256]  # version 0 has one
    joining = next((version for version in reversed(snapshots) if version.snapshot_sha256 in there), None)
    if joining is None:
        raise Gone(folder.blobs / snapshots[-1].snapshot_sha256)
    spare = {sha256 for version in history for sha256 in (version.update_sha256, version.snapshot_sha256)}
    spare -= {version.update_sha256 for version in history[joining.version + 1 :]}
    named = ledger.blob_names() | set(spec.blobs)
    return {sha256 for sha256 in named if sha256 and (sha256 in there or sha256 not in spare)}


def _checkpoints(folder: RunFolder, ledger: Ledger) -> Iterator[Part]:
    for checkpoint in ledger.checkpoints():
        name = f"{folder.checkpoints.name}/{checkpoint.name}"
        path = folder.checkpoints / checkpoint.name / MANIFEST_NAME
        manifest = parse_manifest(_read(path, checkpoint.manifest_sha256), str(path))
        yield Part(f"{name}/{MANIFEST_NAME}", checkpoint.manifest_sha256)
        yield from (Part(f"{name}/{file}", entry.sha256) for file, entry in manifest.files.items())
        yield from _put_there(folder, path.with_name(SIGNATURE_NAME))


def _receipt_key(folder: RunFolder, spec: RunSpec) -> Part:
    path = folder.receipt_key
    if not path.is_file():
        raise Gone(path)
    try:
        ReceiptSigner.load(path, spec)
    except ConfigError:
        raise damaged(path) from None
    return Part(path.name, file_sha256(path))


def _put_there(folder: RunFolder, path: Path) -> Iterator[Part]:
    """What the operator may have put there, and vouches for itself: whoever serves it checks it."""
    if path.is_file():
        yield Part(path.relative_to(folder.root).as_posix(), file_sha256(path), may_change=True)


def _sheets(folder: RunFolder, ledger: Ledger) -> Iterator[Part]:
    for judgement in ledger.judgements():
        place = f"{folder.judgements.name}/{judgement.checkpoint}"
        yield from (Part(f"{place}/{name}", sha256) for name, sha256 in judgement.sheets.items())


def _read(path: Path, sha256: str) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise Gone(path) from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise damaged(path)
    return data
