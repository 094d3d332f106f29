"""What a coordinator exports beside its rounds, and that it never does so twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusion_at_home.checkpoint.manifest import MANIFEST_NAME
from tests.integration.live_run import LiveRun, encoded, serving, volunteers
from tests.unit.tiny_data import tiny_run_folder

FEW_PICTURES = ("evaluation.draws=1", "evaluation.max_images=4", "checkpoint.sampling_steps=1")


def train(run: LiveRun, versions: int) -> None:
    with volunteers(run, 1) as (anna,):
        for number in range(1, versions + 1):
            anna.submit(anna.lease(), encoded(run, 0.001))
            run.wait_for_version(number)


def exported(run: LiveRun) -> list[str]:
    """The checkpoints of a run that has all its images, once nothing is due."""
    while not run.status()["live"]["complete"]:
        pass
    return [checkpoint["name"] for checkpoint in run.status()["checkpoints"]]


def test_checkpoint_follows_every_so_many_images_and_the_end_but_not_the_beginning(tmp_path: Path) -> None:
    often = ("run.total_images=48", "round.images=16", "evaluation.every_images=32", "checkpoint.every_images=32")
    folder = tiny_run_folder(tmp_path, *FEW_PICTURES, *often, "lease.probe_steps=2")
    with serving(folder) as run:
        train(run, 3)
        assert exported(run) == ["tiny-0000000032", "tiny-0000000048"]
        evaluated = {evaluation["version"] for evaluation in run.status()["evaluations"]}
        assert evaluated == {0, 2, 3}


def test_published_checkpoint_is_never_written_again(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *FEW_PICTURES, "run.total_images=16", "round.images=16", "lease.probe_steps=2")
    with serving(folder) as run:
        train(run, 1)
        (name,) = exported(run)
    manifest = folder.checkpoints / name / MANIFEST_NAME
    before = manifest.read_bytes()
    link = folder.exports / "000000001-checkpoint.safetensors"  # as if killed before it was deleted
    link.hardlink_to(folder.state / "state-1.safetensors")
    with serving(folder) as run:
        assert exported(run) == [name]
    assert not link.exists()
    assert manifest.read_bytes() == before


@pytest.mark.slow
def test_what_is_offered_as_the_best_never_gets_worse_though_the_run_does(tmp_path: Path) -> None:
    often = ("round.images=16", "evaluation.every_images=16", "checkpoint.every_images=16", "lease.probe_steps=2")
    folder = tiny_run_folder(tmp_path, *FEW_PICTURES, *often)
    offered, losses = list[float](), list[float]()
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        for number, delta in enumerate((0.001, -0.001, 0.05, 0.2, 0.4), start=1):
            anna.submit(anna.lease(), encoded(run, delta))
            run.wait_for_version(number)
            while len(found := run.get("/checkpoints.json").json()["checkpoints"]) < number:
                pass
            best = run.get("/checkpoints.json").json()["best"]
            losses.append(found[-1]["held_out_loss"])
            offered.append(next(c["held_out_loss"] for c in found if c["name"] == best))
    assert losses[-1] > losses[-2] > min(losses), "it should have become worse"
    assert offered == [min(losses[:number]) for number in range(1, len(losses) + 1)]
