"""A data set of 4 x 4 squares, and a run on it."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from coordinator.init import init_run
from coordinator.run_folder import RunFolder
from diffusion_at_home.data.manifest import DataManifest
from diffusion_at_home.data.shards import Sample, write_shard
from tests.unit.tiny_run import CAPTIONS, tiny_config

SHARD_SIZES = (24, 40, 32)
"""Not multiples of each other, so that leases span shards."""

NUM_SAMPLES = sum(SHARD_SIZES)


def tiny_run_folder(root: Path, *overrides: str) -> RunFolder:
    """A new run on a new data set, both below `root`."""
    data = root / "data"
    build_tiny_data(data)
    folder = RunFolder(root / "run")
    init_run(folder, tiny_config(f"data.path='{data}'", *overrides))
    return folder


def build_tiny_data(folder: Path) -> DataManifest:
    """Write the shards and their manifest."""
    folder.mkdir(parents=True)
    manifest = DataManifest(
        name="squares",
        source="made for a test",
        license="CC0-1.0",
        train=tuple(write_shard(folder / f"train-{i}.tar", _samples(n), (4, 4)) for i, n in enumerate(SHARD_SIZES)),
        held_out=(write_shard(folder / "held-out-0.tar", _samples(8), (4, 4)),),
    )
    manifest.save(folder)
    return manifest


def _samples(count: int) -> list[Sample]:
    return [
        Sample(
            key=f"square-{index}",
            image=_png(40 + index if index % 2 == 0 else 200 + index),
            suffix="png",
            caption=CAPTIONS[index % 2],
            source="made for a test",
            license="CC0-1.0",
        )
        for index in range(count)
    ]


def _png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (level, level, level)).save(buffer, format="PNG")
    return buffer.getvalue()
