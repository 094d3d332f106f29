"""All that is read, with the run that its examples are of."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from benchmarks.fuzz.checkpoints import checkpoints
from benchmarks.fuzz.documents import documents
from benchmarks.fuzz.leftovers import leftovers
from benchmarks.fuzz.messages import messages
from benchmarks.fuzz.residuals import residuals
from benchmarks.fuzz.shards import shards
from benchmarks.fuzz.target import Target
from benchmarks.fuzz.vectors import vectors
from diffusion_at_home import events
from diffusion_at_home.data.manifest import DataManifest, ShardEntry
from diffusion_at_home.runspec import RunSpec
from tests.unit.tiny_run import REPOSITORY, tiny_config, tiny_tokenizer


def all_targets(scratch: Path, opened: ExitStack) -> list[Target]:
    """Every kind, its files below `scratch`; what stays open is closed with `opened`."""
    events.configure(None, None)
    spec = _spec()
    return [
        *vectors(scratch),
        *shards(scratch),
        *documents(scratch, spec, (REPOSITORY / "configs" / "digits.toml").read_text(encoding="utf-8")),
        *checkpoints(scratch, spec),
        *messages(scratch, spec.config, opened),
        *residuals(),
        *leftovers(scratch),
    ]


def _spec() -> RunSpec:
    config = tiny_config()
    train, held_out = (
        ShardEntry(name=f"{name}-00000.tar", sha256=digit * 64, size_bytes=10_240, num_samples=90, width=4, height=4)
        for name, digit in (("train", "1"), ("held-out", "2"))
    )
    data = DataManifest(name="squares", source="drawn", license="CC0-1.0", train=(train,), held_out=(held_out,))
    return RunSpec(
        run_id="tiny-00000000",
        config=config,
        data=data,
        tokenizer=tiny_tokenizer(config).decode(),
        receipt_key="0" * 64,
    )
