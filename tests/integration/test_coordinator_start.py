"""A coordinator that was killed must be back soon, so it loads what a start needs and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from coordinator.blobs import BlobStore, read_spec
from coordinator.ledger import Ledger
from coordinator.run_folder import RunFolder
from coordinator.run_layout import run_layout
from diffusion_at_home.model.build import build_model
from diffusion_at_home.runspec import RunSpec
from diffusion_at_home.wire.layout import Layout
from tests.integration.live_run import encoded, serving, volunteers
from tests.unit.tiny_data import tiny_run_folder
from tests.unit.tiny_run import REPOSITORY

SLOW = ("alembic", "bitsandbytes", "diffusers", "scipy", "sympy", "torch._dynamo", "torch._inductor", "transformers")
"""Each takes as long to import as all that a start needs, or nearly."""

START = """
import sys
from pathlib import Path
from coordinator.app import Coordinator
from coordinator.run_folder import RunFolder
coordinator = Coordinator(RunFolder(Path(sys.argv[1])))
print(coordinator.version, *sys.modules)
"""


def test_start_that_steps_a_version_again_loads_nothing_slow(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, "round.images=16", "lease.probe_steps=2", "evaluation.every_images=1000")
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        anna.submit(anna.lease(), encoded(run, 0.5))
        run.wait_for_version(1)
    assert [path.name for path in folder.state.iterdir()] == ["state-0.safetensors"]
    done = subprocess.run(
        [sys.executable, "-c", START, str(folder.root)], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    version, *loaded = done.stdout.split()
    assert version == "1"
    assert [name for name in SLOW if name in loaded] == []


def test_layout_is_that_of_the_model_and_made_again_if_its_file_is_not_as_it_was_written(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path)
    spec = spec_of(folder)
    expected = Layout.of(
        build_model(spec.config.model, spec.config.objective, spec.tokenizer.encode(), spec.config.run.seed)
    )
    written = folder.layout.read_bytes()
    assert run_layout(folder, spec) == expected
    for damaged in (b"", written[:-1], written.replace(b"weight", b"height", 1), bytes([255]) + written[1:]):
        folder.layout.write_bytes(damaged)
        assert run_layout(folder, spec) == expected
        assert folder.layout.read_bytes() == written
    folder.layout.unlink()
    assert run_layout(folder, spec) == expected


def spec_of(folder: RunFolder) -> RunSpec:
    ledger = Ledger(folder.ledger, read_only=True)
    spec = read_spec(BlobStore(folder.blobs, folder.staging), ledger.spec_sha256())
    ledger.close()
    return spec
