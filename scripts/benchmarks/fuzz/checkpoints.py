"""A checkpoint's folder, signed, as `dah checkpoint verify` reads one that somebody gave away; and what signs it, by itself."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.torch import save

from benchmarks.fuzz.mutation import NAMES, mutate_bytes, mutate_document, mutate_json
from benchmarks.fuzz.target import Read, Target, WronglyAccepted
from diffusion_at_home.checkpoint.manifest import (
    MANIFEST_NAME,
    ROUNDS_NAME,
    SIGNATURE_NAME,
    CheckpointManifest,
    parse_manifest,
)
from diffusion_at_home.checkpoint.proof import prove
from diffusion_at_home.checkpoint.release_key import ReleaseKey
from diffusion_at_home.checkpoint.rotation import Rotation, RotationsFile, load_rotations, rotation_message
from diffusion_at_home.checkpoint.rounds import check_rounds, rounds_bytes
from diffusion_at_home.checkpoint.signature import Trust, check_signature
from diffusion_at_home.errors import ConfigError, IntegrityError, SignatureError
from diffusion_at_home.runspec import RunSpec
from diffusion_at_home.signing_key import public_bytes

_OLD_KEY: Final = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
_KEY: Final = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
_REFUSALS: Final = (IntegrityError, SignatureError, ConfigError)

Files = Mapping[str, bytes]
"""A folder: what is in each file, by its path."""


def checkpoints(scratch: Path, spec: RunSpec) -> list[Target]:
    """The folder, and each of its documents by itself."""
    files = _example(spec)
    return [
        _folder(scratch / "checkpoint", files),
        _manifest(files),
        _rounds(scratch / "rounds", files),
        _signature(files),
        _rotations(scratch / "rotations.json"),
    ]


def _chain() -> tuple[Rotation, ...]:
    old, new = public_bytes(_OLD_KEY).hex(), public_bytes(_KEY).hex()
    return (Rotation(old=old, new=new, signature=_OLD_KEY.sign(rotation_message(old, new)).hex()),)


def _trust() -> Trust:
    return Trust(public_bytes(_OLD_KEY).hex(), required=True)


def _example(spec: RunSpec) -> dict[str, bytes]:
    weights = "3" * 64
    files = {
        "README.md": b"# Squares\n",
        "model_index.json": b'{"_class_name": "PRXPixelPipeline"}\n',
        "transformer/config.json": b'{"depth": 1}\n',
        "transformer/diffusion_pytorch_model.safetensors": save({"weight": torch.arange(64.0)}),
        ROUNDS_NAME: rounds_bytes(spec.run_id, (("a" * 64, ""), ("b" * 64, "c" * 64), (weights, "d" * 64))),
    }
    listed = {
        path: {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)} for path, data in files.items()
    }
    manifest = CheckpointManifest.model_validate(
        {
            "name": "tiny-000000100",
            "run_id": spec.run_id,
            "run": spec.config.run.name,
            "title": "Squares",
            "version": 2,
            "images": 100,
            "weights_digest": weights,
            "default_weights": "ema",
            "held_out_loss": {"raw": 0.5, "ema": 0.25},
            "held_out_bins": (0.1, None, 0.4),
            "parameters": 64,
            "license": "Apache-2.0",
            "created": "2023-11-14T22:13:20Z",
            "data": {
                "name": spec.data.name,
                "digest": spec.data.digest,
                "source": spec.data.source,
                "license": spec.data.license,
                "images": spec.data.num_train_images,
            },
            "contributors": ({"worker_id": "0123456789abcdef", "display_name": "Ada", "images": 100},),
            "config": spec.config.model_dump(mode="json"),
            "software": {"torch": torch.__version__},
            "call": {"height": 8},
            "files": listed,
        }
    )
    files[MANIFEST_NAME] = manifest.model_dump_json(indent=1).encode()
    files[SIGNATURE_NAME] = ReleaseKey(_KEY, _chain()).sign(files[MANIFEST_NAME]).to_bytes()
    return files


def _folder(folder: Path, files: Files) -> Target:
    def mutant(rng: random.Random) -> Read:
        shutil.rmtree(folder, ignore_errors=True)
        changed = dict(files)
        _lay(folder, _change_files(changed, rng))
        if rng.random() < 0.4:
            _change_folder(folder, list(files), rng)
        return lambda: _prove(folder, files)

    return Target("checkpoint", 12, mutant, _REFUSALS)


def _prove(folder: Path, files: Files) -> None:
    """What the run's key vouches for is what it has signed, byte for byte."""
    proof = prove(folder, _trust())
    json.dumps([proof.proves, proof.does_not_prove, proof.manifest.size_bytes])
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    if set(found) != set(files) or any(path.read_bytes() != files[name] for name, path in found.items()):
        raise WronglyAccepted(f"a checkpoint of {sorted(found)} that is not what was signed")


def _change_files(files: dict[str, bytes], rng: random.Random) -> dict[str, bytes]:
    """One file's bytes; half of those that the manifest lists with their digest in it, and a fifth of those signed by a thief."""
    path = rng.choice(list(files))
    if path in {MANIFEST_NAME, SIGNATURE_NAME, ROUNDS_NAME}:
        files[path] = mutate_document(files[path], files[rng.choice(list(files))], rng)
    elif rng.random() < 0.95:
        files[path] = mutate_bytes(files[path], files[rng.choice(list(files))], rng)
    else:
        return files
    if path not in {MANIFEST_NAME, SIGNATURE_NAME} and rng.random() < 0.5:
        manifest: Any = json.loads(files[MANIFEST_NAME])
        digest = hashlib.sha256(files[path]).hexdigest()
        size_bytes = len(files[path]) + rng.choice((0, 0, 0, 1, 2**40, 2**63))
        manifest["files"][path] = {"sha256": digest, "size_bytes": size_bytes}
        files[MANIFEST_NAME] = json.dumps(manifest).encode() if rng.random() < 0.8 else mutate_json(manifest, rng)
    if path != SIGNATURE_NAME and rng.random() < 0.2:
        thief = Ed25519PrivateKey.from_private_bytes(rng.randbytes(32))
        files[SIGNATURE_NAME] = ReleaseKey(thief, ()).sign(files[MANIFEST_NAME]).to_bytes()
    return files


def _lay(folder: Path, files: Files) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def _change_folder(folder: Path, names: list[str], rng: random.Random) -> None:
    """What is no content: files added, taken away, renamed, made folders or links."""
    path = folder / rng.choice(names)
    added = folder / rng.choice(("", "transformer", "new")) / _file_name(rng)
    match rng.randrange(6):
        case 0:
            path.unlink()
        case 1:
            added.parent.mkdir(exist_ok=True)
            if not added.exists():
                added.write_bytes(b"import os\n")
        case 2:
            added.parent.mkdir(exist_ok=True)
            if not added.exists():
                path.rename(added)
        case 3:
            path.unlink()
            path.mkdir()
        case 4:
            path.unlink()
            path.symlink_to(rng.choice(("/etc/passwd", "/dev/zero", folder, path.name, folder.parent / "config.toml")))
        case _:
            path.unlink()
            os.mkfifo(path)


def _file_name(rng: random.Random) -> str:
    name = rng.choice((*NAMES, "pipeline.py", "model.pkl", ".hidden", b"\xff\xfe".decode(errors="surrogateescape")))
    plain = name.replace("/", "_").replace("\x00", "_")[:100]
    return plain if plain not in {"", ".", ".."} else "x"


def _manifest(files: Files) -> Target:
    whole = files[MANIFEST_NAME]

    def mutant(rng: random.Random) -> Read:
        data = mutate_document(whole, whole[::-1], rng)
        return lambda: json.dumps(parse_manifest(data, MANIFEST_NAME).size_bytes)

    return Target("checkpoint_manifest", 5, mutant, _REFUSALS)


def _rounds(folder: Path, files: Files) -> Target:
    folder.mkdir()
    manifest = parse_manifest(files[MANIFEST_NAME], MANIFEST_NAME)

    def mutant(rng: random.Random) -> Read:
        (folder / ROUNDS_NAME).write_bytes(mutate_document(files[ROUNDS_NAME], files[MANIFEST_NAME], rng))
        return lambda: check_rounds(folder, manifest)

    return Target("rounds", 3, mutant, _REFUSALS)


def _signature(files: Files) -> Target:
    whole, manifest = files[SIGNATURE_NAME], files[MANIFEST_NAME]

    def check(data: bytes) -> None:
        vouched = check_signature(data, manifest, _trust(), SIGNATURE_NAME)
        if data != whole:
            raise WronglyAccepted(f"a signature that was changed, as {vouched}")

    def mutant(rng: random.Random) -> Read:
        data = mutate_document(whole, whole[::-1], rng)
        return lambda: check(data)

    return Target("signature", 4, mutant, _REFUSALS)


def _rotations(path: Path) -> Target:
    whole = RotationsFile(rotations=_chain()).model_dump_json(indent=1).encode()

    def check() -> None:
        if load_rotations(path) != _chain():
            raise WronglyAccepted("a rotation that its old key has not signed")

    def mutant(rng: random.Random) -> Read:
        path.write_bytes(mutate_document(whole, whole[::-1], rng))
        return check

    return Target("rotations", 3, mutant, _REFUSALS)
