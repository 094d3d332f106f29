"""How a judgement becomes part of a run, and what a coordinator that died in the middle of one leaves."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.judging.process import JudgingFailed
from coordinator.judging.task import JudgingTask
from coordinator.judging.work import GRID_NAME, Made, Work, sweep_judging
from coordinator.ledger import Ledger
from coordinator.records import Checkpoint, Judgement, Weights
from coordinator.run_folder import RunFolder
from diffusion_at_home.data.manifest import DataManifest
from diffusion_at_home.evaluation.places import (
    ANIMATION_NAME,
    HISTORY_NAME,
    TRAINED_NAME,
    grid_path,
    own_encoder_path,
)
from tests.unit.desk import new_ledger
from tests.unit.tiny_checkpoint import DATA, RUN_ID, tiny_spec

ENCODER = "e" * 64


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


@pytest.fixture
def ledger(folder: RunFolder) -> Iterator[Ledger]:
    ledger = new_ledger(folder.ledger)
    for images in (100, 200):
        ledger.add_checkpoint(checkpoint(images))
    yield ledger
    ledger.close()


@pytest.fixture
def work(folder: RunFolder) -> Work:
    return Work(folder, tiny_spec("judging.every_images=1", "judging.pictures=20", "judging.memory_gib=0.5"))


def checkpoint(images: int) -> Checkpoint:
    return Checkpoint(f"tiny-{images}", 0, images, Weights.EMA, 0.5, 100, "a" * 64, 1)


def result(images: int, **changes: Any) -> dict[str, Any]:
    found = {"value": 0.25}
    return {
        "run_id": RUN_ID,
        "images": images,
        "data": DATA.digest,
        "encoder_sha256": ENCODER,
        "frechet": {"value": None},
        "kernel": found,
        "retrieval": {"top1": found},
        "unseen": None,
    } | changes


def judged(task: JudgingTask, images: int, **changes: Any) -> None:
    """What the process leaves."""
    if task.encoder is None:
        own_encoder_path(task.out, DATA.digest).mkdir()
        (own_encoder_path(task.out, DATA.digest) / "encoder.json").write_text("{}")
    grid = grid_path(task.out, RUN_ID, images)
    grid.parent.mkdir(parents=True, exist_ok=True)
    grid.write_text(f"grid of {images}")
    (task.out / TRAINED_NAME).write_text(f"trained of {images}")
    (task.out / ANIMATION_NAME).write_text(f"{len(list(grid.parent.iterdir()))} grids")
    with (task.out / HISTORY_NAME).open("a") as history:
        history.write(json.dumps(result(images, **changes)) + "\n")
    task.result.write_text(json.dumps(result(images, **changes)))


def make(work: Work, ledger: Ledger, images: int, **changes: Any) -> Made:
    """A judgement up to the ledger's row."""
    earlier, named = ledger.judgements(), ledger.judging_files()
    task = work.prepare(checkpoint(images), earlier, named)
    judged(task, images, **changes)
    made = work.collect(task, checkpoint(images), earlier, named)
    ledger.add_judgement(made.judgement, made.files)
    work.publish(task)
    return made


def test_what_the_process_made_becomes_part_of_the_run(work: Work, folder: RunFolder, ledger: Ledger) -> None:
    made = make(work, ledger, 100)
    kept = folder.judgements / "tiny-100"
    assert {path.name: path.read_text() for path in kept.iterdir()} == {
        GRID_NAME: "grid of 100",
        TRAINED_NAME: "trained of 100",
    }
    assert made.judgement.sheets == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in kept.iterdir()
    }
    assert made.files == {"encoder/encoder.json": hashlib.sha256(b"{}").hexdigest()}
    assert ledger.judgements() == [made.judgement]
    assert ledger.judging_files() == made.files
    assert (made.judgement.frechet, made.judgement.kernel, made.judgement.unseen) == (None, 0.25, None)
    assert not folder.judging.exists()


def test_the_next_one_goes_on_with_history_and_grids_and_the_same_encoder(
    work: Work, folder: RunFolder, ledger: Ledger
) -> None:
    make(work, ledger, 100)
    task = work.prepare(checkpoint(200), ledger.judgements(), ledger.judging_files())
    assert task.encoder == folder.encoder
    assert json.loads((task.out / HISTORY_NAME).read_text()) == result(100)
    assert grid_path(task.out, RUN_ID, 100).read_text() == "grid of 100"
    work.clear()
    assert make(work, ledger, 200).files == {}
    assert (folder.judgements / ANIMATION_NAME).read_text() == "2 grids"
    assert [judgement.images for judgement in ledger.judged()] == [100, 200]


def test_data_set_is_put_together_again_from_the_runs_own_files(work: Work, folder: RunFolder) -> None:
    folder.blobs.mkdir()
    folder.held_out.mkdir()
    (folder.blobs / DATA.train[0].sha256).write_text("shard")
    (folder.held_out / DATA.held_out[0].name).write_text("held out")
    task = work.prepare(checkpoint(100), [], {})
    assert DataManifest.load(task.data).digest == DATA.digest
    assert (task.data / DATA.train[0].name).read_text() == "shard"
    assert (task.data / DATA.held_out[0].name).read_text() == "held out"
    work.clear()
    assert (folder.blobs / DATA.train[0].sha256).read_text() == "shard"


def test_what_the_operator_named_goes_before_the_runs_own(work: Work, folder: RunFolder) -> None:
    named = {"pictures/manifest.json": "1" * 64, "encoder/config.json": "2" * 64}
    task = work.prepare(checkpoint(100), [], named)
    assert (task.data, task.encoder) == (folder.pictures, folder.encoder)
    assert (task.pictures, task.steps, task.memory_bytes) == (20, None, 2**29)


def test_another_encoder_than_before_is_refused_and_nothing_of_the_run_changes(
    work: Work, folder: RunFolder, ledger: Ledger
) -> None:
    make(work, ledger, 100)
    with pytest.raises(JudgingFailed, match="is not what it was: restore it from a backup"):
        make(work, ledger, 200, encoder_sha256="f" * 64)
    assert [path.name for path in folder.judgements.iterdir() if path.is_dir()] == ["tiny-100"]


@pytest.mark.parametrize("left", [None, "", "{", "[]", '{"encoder_sha256": "e"}'])
def test_result_that_cannot_be_read_is_a_failure(work: Work, left: str | None) -> None:
    task = work.prepare(checkpoint(100), [], {})
    if left is not None:
        task.result.write_text(left)
    with pytest.raises(JudgingFailed, match="cannot be read"):
        work.collect(task, checkpoint(100), [], {})


def test_coordinator_that_died_while_judging_counts_as_a_try_and_leaves_nothing(
    work: Work, folder: RunFolder, ledger: Ledger
) -> None:
    task = work.prepare(checkpoint(100), [], {})
    judged(task, 100)
    work.collect(task, checkpoint(100), [], {})  # and then it died: the ledger names nothing of it
    assert sweep_judging(folder, ledger) == ("judgements/tiny-100", "encoder")
    assert [(failed.checkpoint, failed.number) for failed in ledger.failed_judgements()] == [("tiny-100", 1)]
    assert not any(path.exists() for path in (folder.judging, folder.encoder, folder.judgements / "tiny-100"))
    assert sweep_judging(folder, ledger) == ()
    assert len(ledger.failed_judgements()) == 1


def test_coordinator_that_died_after_the_ledger_has_it_has_judged(
    work: Work, folder: RunFolder, ledger: Ledger
) -> None:
    task = work.prepare(checkpoint(100), [], {})
    judged(task, 100)
    made = work.collect(task, checkpoint(100), [], {})
    ledger.add_judgement(made.judgement, made.files)
    assert sweep_judging(folder, ledger) == ()
    assert ledger.failed_judgements() == []
    assert (folder.judgements / "tiny-100" / GRID_NAME).is_file()
    assert (folder.encoder / "encoder.json").is_file()
    assert not folder.judging.exists()


def test_orderly_end_counts_as_no_try(work: Work, folder: RunFolder, ledger: Ledger) -> None:
    work.prepare(checkpoint(100), [], {})
    work.clear()
    assert sweep_judging(folder, ledger) == ()
    assert ledger.failed_judgements() == []


def test_tries_are_numbered_for_each_checkpoint(ledger: Ledger) -> None:
    for name in ("tiny-100", "tiny-200", "tiny-100"):
        ledger.add_failed_judgement(name, "no memory" * 200)
    failed = ledger.failed_judgements()
    assert sorted((failure.checkpoint, failure.number) for failure in failed) == [
        ("tiny-100", 1),
        ("tiny-100", 2),
        ("tiny-200", 1),
    ]


def test_a_judgement_is_stored_once_and_a_damaged_sheet_forgotten_alone(ledger: Ledger) -> None:
    stored = Judgement("tiny-100", 100, ENCODER, 1.0, 2.0, 0.5, 0.25, "{}", {"a.png": "1" * 64, "b.png": "2" * 64}, 7)
    ledger.add_judgement(stored, {"encoder/encoder.json": "3" * 64})
    ledger.add_judgement(dataclasses.replace(stored, kernel=9.0), {"encoder/encoder.json": "4" * 64})
    assert ledger.judgements() == [stored]
    assert ledger.judging_files() == {"encoder/encoder.json": "3" * 64}
    ledger.forget_sheet("tiny-100", "a.png")
    assert ledger.judgements() == [dataclasses.replace(stored, sheets={"b.png": "2" * 64})]
