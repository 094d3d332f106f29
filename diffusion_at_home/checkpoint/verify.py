"""Checks a checkpoint's folder against its manifest: every byte, and nothing besides but a signature that holds."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from diffusion_at_home.checkpoint.experts import check_experts
from diffusion_at_home.checkpoint.manifest import (
    MANIFEST_NAME,
    SIGNATURE_NAME,
    CheckpointManifest,
    CohortsManifest,
    FileEntry,
    load_manifest,
)
from diffusion_at_home.checkpoint.rounds import check_rounds
from diffusion_at_home.checkpoint.signature import Trust, check_folder
from diffusion_at_home.errors import IntegrityError

_REMEDY: Final = "do not use this checkpoint, delete it and download it again"


def verify(folder: Path) -> CheckpointManifest:
    """`verify_files`, and that its signature, if it has one, is one of its manifest; whose, `check_folder` tells.

    Raises:
        IntegrityError: as `verify_files` does.
        SignatureError: what is called its signature is none.
    """
    manifest = verify_files(folder)
    check_folder(folder, Trust())
    return manifest


def verify_files(folder: Path) -> CheckpointManifest:
    """The manifest of the checkpoint in `folder`, all of whose files are as it says.

    Raises:
        IntegrityError: naming the first file that is missing, changed, or not in the manifest: a file that nobody
            vouches for may be code that a loader would run.
    """
    manifest = load_manifest(folder)
    for path, entry in manifest.files.items():
        check_file(folder / path, entry, path)
    known = {folder / path for path in (*manifest.files, MANIFEST_NAME, SIGNATURE_NAME)}
    for found in sorted(folder.rglob("*")):
        if found.is_symlink() or (not found.is_dir() and found not in known):
            name = os.fsencode(found.relative_to(folder)).decode(errors="backslashreplace")  # any bytes are a name
            raise IntegrityError(f"{name} is not in the manifest of {folder}: delete it")
    if isinstance(manifest, CohortsManifest):
        check_experts(folder, manifest)
    else:
        check_rounds(folder, manifest)
    return manifest


def check_file(file: Path, entry: FileEntry, name: str) -> None:
    """Check one file. Raises `IntegrityError`."""
    if not file.is_file() or file.is_symlink():
        raise IntegrityError(f"{name} is missing: {_REMEDY}")
    if file.stat().st_size != entry.size_bytes:
        raise IntegrityError(f"{name} has {file.stat().st_size} bytes instead of {entry.size_bytes}: {_REMEDY}")
    with file.open("rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
    if digest != entry.sha256:
        raise IntegrityError(f"{name} does not have the sha256 of the manifest: {_REMEDY}")
