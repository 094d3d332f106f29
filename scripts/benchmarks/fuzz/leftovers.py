"""A worker's own files, as a crash, a full disk or a bad one may have left them: what cannot be read is done without."""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

from benchmarks.fuzz.mutation import mutate_bytes, mutate_document
from benchmarks.fuzz.target import Read, Target, WronglyAccepted
from diffusion_at_home.config.run import Codec, CodecSection
from diffusion_at_home.errors import ConfigError, DataError, LeaseLost
from diffusion_at_home.identity import Identity
from diffusion_at_home.kept_weights import KeptWeights
from diffusion_at_home.rpc.coordinator_pb2 import SubmitHeader
from diffusion_at_home.wire.layout import Layout, Slot
from worker.embedding_file import read_embeddings, write_embeddings
from worker.grant import LeaseId
from worker.join_stamp import JoinStamp
from worker.outbox import Outbox
from worker.progress import Status, read_status
from worker.residual import Residual
from worker.state_folder import StateFolder
from worker.trainer import Trained

_NUM_ELEMENTS: Final = 4_500
_LAYOUT: Final = Layout((Slot("weights", (_NUM_ELEMENTS,), 0, _NUM_ELEMENTS),))
_SECTION: Final = CodecSection(delta=Codec.SPARSE, feedback=0.95)


def leftovers(scratch: Path) -> list[Target]:
    """All that it reads when it starts again."""
    return [
        _residual(scratch / "residual.safetensors"),
        _outbox(scratch / "pending"),
        _embeddings(scratch / "embeddings"),
        _state(scratch / "state"),
    ]


def _delta() -> torch.Tensor:
    return torch.randn(_NUM_ELEMENTS, generator=torch.Generator().manual_seed(0))


def _residual(path: Path) -> Target:
    before = Residual(path, _SECTION, _LAYOUT)
    before.starts_from(7)
    list(before.encode(LeaseId(2), _delta(), Codec.SPARSE))
    before.received(LeaseId(2))
    list(before.encode(LeaseId(3), _delta(), Codec.SPARSE))
    before.close()
    whole = path.read_bytes()
    untouched = _encoded(path)
    path.write_bytes(b"")
    without = _encoded(path)

    def check() -> None:
        if _encoded(path) not in {untouched, without}:
            raise WronglyAccepted("a residual that is not the one which was left")

    def mutant(rng: random.Random) -> Read:
        path.write_bytes(mutate_bytes(whole, whole[::-1], rng))
        return check

    return Target("residual", 4, mutant, ())


def _encoded(path: Path) -> bytes:
    """What the next delta comes to: the residual is added to it."""
    residual = Residual(path, _SECTION, _LAYOUT)
    residual.starts_from(8)
    return b"".join(residual.encode(LeaseId(4), _delta(), Codec.SPARSE))


def _outbox(folder: Path) -> Target:
    path = folder.with_name("outbox-residual.safetensors")
    outbox = Outbox(folder, Residual(path, _SECTION, _LAYOUT))
    for lease_id in (LeaseId(3), LeaseId(4)):
        trained = Trained(_delta(), images=8, seconds=1.0, mean_loss=0.5, weights=KeptWeights.EXACT)
        outbox.put(lease_id, "0" * 64, trained, Codec.SPARSE)
    files = {file.name: file.read_bytes() for file in folder.iterdir()}

    def mutant(rng: random.Random) -> Read:
        shutil.rmtree(folder)
        folder.mkdir()
        changed = rng.choice(sorted(files))
        for name, data in files.items():
            (folder / name).write_bytes(_changed(name, files, rng) if name == changed else data)
        return lambda: _recover(Outbox(folder, Residual(path, _SECTION, _LAYOUT)))

    return Target("outbox", 4, mutant, ())


def _changed(name: str, files: Mapping[str, bytes], rng: random.Random) -> bytes:
    other = files[rng.choice(sorted(files))]
    change = mutate_document if name.endswith(".json") else mutate_bytes
    return change(files[name], other, rng)


def _recover(outbox: Outbox) -> None:
    """As a worker that starts: each is announced, and here refused."""
    for contribution in outbox.recover():
        SubmitHeader(
            lease_id=contribution.lease_id,
            sha256=contribution.sha256,
            size_bytes=contribution.size_bytes,
            images=contribution.images,
            train_ms=contribution.train_ms,
            mean_loss=contribution.mean_loss,
        ).SerializeToString()
        outbox.vector(contribution).read_bytes()
        outbox.refused(contribution, LeaseLost("refused", "round_closed"))


def _embeddings(path: Path) -> Target:
    rows = [torch.full((length, 8), 0.5) for length in (1, 3, 2)]
    write_embeddings(path, rows)
    whole = path.read_bytes()

    def check() -> None:
        found = read_embeddings(path, len(rows), 8)
        if not all(torch.equal(row, read.float()) for row, read in zip(rows, found, strict=True)):
            raise WronglyAccepted("embeddings that are not those which were written")

    def mutant(rng: random.Random) -> Read:
        path.write_bytes(mutate_bytes(whole, whole[::-1], rng))
        return check

    return Target("embeddings", 3, mutant, (DataError,))


def _state(root: Path) -> Target:
    """Small files that only their owner writes: a damaged one is named, or forgotten."""
    folder = StateFolder(root)
    folder.remember("tiny-00000000", "Squares", ["https://host.invalid:8400"])
    Identity.load_or_create(folder.identity)
    folder.last_join.write_bytes(b"1700000000000\n")
    folder.status.write_bytes(
        Status.model_validate({"pid": 1, "updated_at": "2023-11-14T22:13:20Z"}).model_dump_json().encode()
    )
    names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    files = {name: (root / name).read_bytes() for name in sorted(names)}

    def read() -> None:
        JoinStamp(folder.last_join).next_ms()
        folder.joined_runs()
        read_status(folder.status)
        Identity.load_or_create(folder.identity)

    def mutant(rng: random.Random) -> Read:
        damaged = rng.choice(list(files))
        for name, data in files.items():
            change = mutate_document if name.endswith(".json") else mutate_bytes
            (root / name).write_bytes(change(data, data[::-1], rng) if name == damaged else data)
        return read

    return Target("state", 3, mutant, (ConfigError,))
