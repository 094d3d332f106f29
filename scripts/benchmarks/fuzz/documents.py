"""JSON and TOML from a server, or from whoever sent a file: a run, its data set and its checkpoints, receipts, a config."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from benchmarks.fuzz.mutation import NAMES, mutate_bytes, mutate_document
from benchmarks.fuzz.target import Read, Target, WronglyAccepted
from diffusion_at_home.checkpoint.download import Demand
from diffusion_at_home.checkpoint.listing import CheckpointListing
from diffusion_at_home.config.run import RunConfig, TextEncoderSection
from diffusion_at_home.config.toml import load_toml
from diffusion_at_home.data.manifest import MANIFEST_NAME, DataManifest, verify
from diffusion_at_home.errors import ConfigError, DataError, IntegrityError
from diffusion_at_home.model.text import load_tokenizer, tokens_of
from diffusion_at_home.receipt import Receipt, Received, read_receipts
from diffusion_at_home.runinfo import RunInfo
from diffusion_at_home.runspec import RunSpec
from diffusion_at_home.signing_key import public_bytes
from diffusion_at_home.tls import check_pin

_RUN_KEY: Final = Ed25519PrivateKey.from_private_bytes(b"r" * 32)
_RUN_ID: Final = "tiny-00000000"
_TOML_VALUES: Final = (
    "1e400",
    "nan",
    "-inf",
    "9223372036854775808",
    "9" * 5_000,
    "[" * 3_000,
    "[" * 3_000 + "]" * 3_000,
    '"../../canary"',
    '"\\u0000"',
    "'''",
    "{a={b={c=1}}}",
    "2020-01-01",
    "true",
    "-1",
    "0",
    '""',
    "0x" + "f" * 5_000,
)


def documents(scratch: Path, spec: RunSpec, toml: str) -> list[Target]:
    """Of `spec` and of the text of a config."""
    return [
        _data_manifest(scratch, spec),
        _specification(spec),
        _tokenizer(spec),
        _run_info(),
        _listing(),
        _receipts(scratch),
        _config(scratch, toml),
    ]


def _json_target(
    kind: str, share: int, data: bytes, read: Callable[[bytes], object], refusal: type[Exception]
) -> Target:
    def mutant(rng: random.Random) -> Read:
        changed = mutate_document(data, data[::-1], rng)
        return lambda: read(changed)

    return Target(kind, share, mutant, (refusal,))


def _specification(spec: RunSpec) -> Target:
    def read(data: bytes) -> None:
        found = RunSpec.from_bytes(data)
        if found.to_bytes() != data:
            raise WronglyAccepted("a specification that has another name than its bytes")
        json.dumps([found.sha256, found.blobs, found.config.model_dump(mode="json"), found.data.digest])

    return _json_target("specification", 6, spec.to_bytes(), read, DataError)


def _tokenizer(spec: RunSpec) -> Target:
    own = spec.config.model.text
    whole = spec.tokenizer.encode()

    def read(data: bytes, section: TextEncoderSection) -> None:
        tokenizer = load_tokenizer(data, section)
        tokens_of(tokenizer, ["a dark square", "", "\u202e \x00 é"])

    def mutant(rng: random.Random) -> Read:
        data, section = mutate_document(whole, whole[::-1], rng), rng.choice((own, _chosen(own)))
        return lambda: read(data, section)

    return Target("tokenizer", 3, mutant, (DataError,))


def _chosen(section: TextEncoderSection) -> TextEncoderSection:
    """Of a run whose operator has chosen that tokenizer instead of having it made."""
    return section.model_copy(update={"tokenizer": "tokenizer.json"})


def _data_manifest(scratch: Path, spec: RunSpec) -> Target:
    folder = scratch / "data"
    folder.mkdir()
    spec.data.save(folder)
    whole = (folder / MANIFEST_NAME).read_bytes()

    def mutant(rng: random.Random) -> Read:
        (folder / MANIFEST_NAME).write_bytes(mutate_document(whole, whole[::-1], rng))
        return lambda: _use_data(folder)

    return Target("data_manifest", 5, mutant, (DataError,))


def _use_data(folder: Path) -> None:
    manifest = DataManifest.load(folder)
    json.dumps([manifest.digest, manifest.num_train_images])
    try:
        verify(folder, manifest)  # there are no shards
    except DataError:
        return
    raise WronglyAccepted("a data set without its shards")


def _run_info() -> Target:
    info = RunInfo(
        run_id=_RUN_ID,
        run="tiny",
        title="Squares",
        protocol_version=1,
        grpc_port=8401,
        spec_sha256="5" * 64,
        certificate="-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
        receipt_key="6" * 64,
        num_parameters=10,
    )

    def read(data: bytes) -> None:
        found = RunInfo.model_validate_json(data)
        try:
            check_pin(found.certificate, "0" * 64)
        except IntegrityError:
            return
        raise WronglyAccepted("another certificate than the pinned one")

    return _json_target("run_info", 3, info.model_dump_json().encode(), read, ValidationError)


def _listing() -> Target:
    listed = {
        "name": "tiny-000000100",
        "version": 3,
        "images": 100,
        "held_out_loss": 0.25,
        "default_weights": "ema",
        "size_bytes": 10_000,
        "created": "2023-11-14T22:13:20Z",
        "manifest_sha256": "7" * 64,
        "signed": True,
        "judged": {"frechet": 1.5, "kernel": 0.5, "retrieval": 0.75, "unseen": None, "encoder_sha256": "8" * 64},
    }
    listing = {"run_id": _RUN_ID, "run": "tiny", "checkpoints": [listed], "latest": listed["name"], "best": None}

    def read(data: bytes) -> None:
        found = CheckpointListing.model_validate_json(data)
        Demand().trust(found)
        found.model_dump_json()

    return _json_target("listing", 4, json.dumps(listing).encode(), read, ValidationError)


def _receipts(scratch: Path) -> Target:
    path, key = scratch / "sent-receipts.jsonl", public_bytes(_RUN_KEY).hex()
    lines = [_receipt(number).model_dump_json().encode() for number in range(1, 4)]
    genuine = [_receipt(number).received for number in range(1, 4)]

    def read() -> None:
        for line in read_receipts(path, key):
            if line.receipt is not None and not line.problem and line.receipt.received not in genuine:
                raise WronglyAccepted("a receipt that the run has not signed")

    def mutant(rng: random.Random) -> Read:
        changed = list(lines)
        place = rng.randrange(len(changed))
        changed[place] = mutate_document(lines[place], lines[0], rng)
        data = b"\n".join(changed) + b"\n"
        path.write_bytes(mutate_bytes(data, data[::-1], rng) if rng.random() < 0.2 else data)
        return read

    return Target("receipts", 4, mutant, (ConfigError,))


def _receipt(number: int) -> Receipt:
    received = Received(
        run_id=_RUN_ID,
        contribution_id=number,
        worker_id="0" * 16,
        lease_id=number,
        sha256="a" * 64,
        images=32,
        round=number,
    )
    signature = _RUN_KEY.sign(received.message()).hex()
    return Receipt(received=received, public_key=public_bytes(_RUN_KEY).hex(), signature=signature)


def _config(scratch: Path, toml: str) -> Target:
    path = scratch / "config.toml"
    lines = toml.splitlines(keepends=True)

    def mutant(rng: random.Random) -> Read:
        path.write_bytes(_changed_toml(lines, rng))
        return lambda: load_toml(path, RunConfig)

    return Target("config", 4, mutant, (ConfigError,))


def _changed_toml(lines: list[str], rng: random.Random) -> bytes:
    changed = list(lines)
    place = rng.randrange(len(changed))
    key, equals, _ = changed[place].partition("=")
    match rng.randrange(4):
        case 0:
            data = "".join(changed).encode()
            return mutate_bytes(data, data[::-1], rng)
        case 1 if equals:
            changed[place] = f"{key}= {rng.choice(_TOML_VALUES)}\n"
        case 2:
            changed.insert(place, f"{json.dumps(rng.choice(NAMES))} = {rng.choice(_TOML_VALUES)}\n")
        case _:
            changed[place] = rng.choice(("", changed[place] * 2, f"[{key.strip()}]\n", "[[a]]\n", "." * 200 + "\n"))
    return "".join(changed).encode()
