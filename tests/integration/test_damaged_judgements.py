"""A byte flips in what a checkpoint was judged by, or in what the judgement drew."""

from __future__ import annotations

import hashlib
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.ledger import Ledger
from coordinator.records import Judgement
from coordinator.run_folder import RunFolder
from tests.integration.damage import ROUNDS, flip, problems, train, until
from tests.integration.live_run import serving, volunteers
from tests.unit.tiny_data import tiny_run_folder

JUDGED = "tiny-0000000008"
ENCODER = "encoder/model.safetensors"
DRAWN = {name: name.encode() * 100 for name in ("grid.png", "trained.png")}
WEIGHTS = b"weights" * 100


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with one checkpoint, which was judged by an encoder and of which two sheets were drawn."""
    overrides = (
        "checkpoint.every_images=8",
        "checkpoint.sampling_steps=1",
        "evaluation.draws=1",
        "evaluation.max_images=4",
    )
    folder = tiny_run_folder(tmp_path_factory.mktemp("judged"), *ROUNDS, *overrides)
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        train(run, anna, 1)
        until(lambda: bool(run.status()["checkpoints"]))
    with closing(Ledger(folder.ledger)) as ledger:
        judgement = Judgement(JUDGED, 8, "e" * 64, 1.0, 2.0, 0.5, 0.25, "{}", digests(DRAWN), 7)
        ledger.add_judgement(judgement, digests({ENCODER: WEIGHTS}))
    return folder


@pytest.fixture
def folder(judged: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of it, with all that the judgement left."""
    shutil.copytree(judged.root, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    for name, data in DRAWN.items():
        write(folder.judgements / JUDGED / name, data)
    write(folder.root / ENCODER, WEIGHTS)
    return folder


def digests(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def sheets_of(folder: RunFolder) -> set[str]:
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        (judgement,) = ledger.judgements()
    return set(judgement.sheets)


@pytest.mark.parametrize("lost", ["flipped", "missing"])
def test_a_lost_sheet_is_shown_no_more_and_the_figures_stay(folder: RunFolder, lost: str) -> None:
    path = folder.judgements / JUDGED / "grid.png"
    flip(path) if lost == "flipped" else path.unlink()
    with serving(folder) as run:
        until(lambda: sheets_of(folder) == {"trained.png"})
        until(lambda: not path.exists())
        assert run.get(f"/judgements/{JUDGED}/grid.png").status_code == 404
        assert run.get(f"/judgements/{JUDGED}/trained.png").status_code == 200
        assert [judgement["frechet"] for judgement in run.status()["judgements"]] == [1.0]
        assert problems(run) == {}


@pytest.mark.parametrize("lost", ["flipped", "missing"])
def test_a_lost_encoder_is_named_until_it_is_restored(folder: RunFolder, lost: str) -> None:
    path = folder.root / ENCODER
    flip(path) if lost == "flipped" else path.unlink()
    with serving(folder) as run:
        until(lambda: f"damaged:{ENCODER}" in problems(run))
        assert f"restore {path} from a backup" in problems(run)[f"damaged:{ENCODER}"]
    path.write_bytes(WEIGHTS)
    with serving(folder) as run:
        assert problems(run) == {}
