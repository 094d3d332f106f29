"""A byte flips in what a coordinator does not serve: a saved state, the anchor, its copy of the autoencoder."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from coordinator.init import init_run
from coordinator.ledger import Ledger
from coordinator.replay import replay
from coordinator.run_folder import RunFolder
from coordinator.states import States
from diffusion_at_home.errors import IntegrityError
from diffusion_at_home.outer.state import RunState
from tests.integration.damage import ROUNDS, flip, problems, train, until
from tests.integration.live_run import LiveRun, serving, volunteers
from tests.unit.tiny_autoencoder import encode_tiny_data, latent_overrides
from tests.unit.tiny_data import tiny_run_folder
from tests.unit.tiny_run import tiny_config

SAVED_EACH_ROUND = (
    "evaluation.every_images=8",
    "evaluation.draws=1",
    "evaluation.max_images=4",
    "checkpoint.every_images=100000",
)
SLOWLY = "storage.scrub_mb_per_second=0.2"
"""So that what is damaged right after the start is read after that."""
NOT_AT_ALL = "storage.scrub_mb_per_second=0"


def trained(folder: RunFolder, upto: int) -> None:
    """Serve until version `upto` is published and evaluated."""
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        train(run, anna, upto)
        until(lambda: saved(folder)[-1] == f"state-{upto}.safetensors")  # published first, saved after that
        until(lambda: not any(folder.exports.iterdir()))


def saved(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.state.iterdir())


def lose(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    else:
        flip(path)


def recovery(run: LiveRun) -> dict[str, Any]:
    found: dict[str, Any] = run.status()["live"]["recovery"]
    return found


def test_state_that_flips_is_found_by_the_next_start_only(tmp_path: Path) -> None:
    """What happens without the scrubber: it steps the older state again, if that is sound."""
    folder = tiny_run_folder(tmp_path, *SAVED_EACH_ROUND, *ROUNDS, NOT_AT_ALL)
    trained(folder, upto=3)
    with serving(folder) as run:
        flip(folder.state / "state-3.safetensors")
        assert problems(run) == {}
    with serving(folder) as run:
        assert (recovery(run)["state_from"], recovery(run)["versions_stepped_again"]) == ("state-2.safetensors", 1)
        assert "state-3.safetensors is not a readable run state" in recovery(run)["damaged"][0]


def test_newest_state_that_flips_is_saved_anew_before_anybody_needs_it(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *SAVED_EACH_ROUND, *ROUNDS, SLOWLY)
    trained(folder, upto=3)
    name = "state-3.safetensors"
    before = (folder.state / name).read_bytes()
    with serving(folder) as run:
        flip(folder.state / name)
        until((folder.damaged / name).is_file)
        until(lambda: saved(folder) == ["state-2.safetensors", name] and problems(run) == {})
    assert (folder.state / name).read_bytes() == before
    with serving(folder) as run:
        assert (recovery(run)["state_from"], recovery(run)["damaged"]) == (name, [])


def test_older_state_that_flips_is_set_aside_and_the_newest_one_saved(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *SAVED_EACH_ROUND, *ROUNDS)
    trained(folder, upto=3)
    older = folder.state / "state-2.safetensors"
    flip(older)
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        until((folder.damaged / older.name).is_file)
        until(lambda: problems(run) == {})
        assert recovery(run)["damaged"] == []
        train(run, anna, 4)
        until(lambda: saved(folder) == ["state-3.safetensors", "state-4.safetensors"])
    assert RunState.load(folder.state / "state-4.safetensors").version == 4


def test_state_whose_own_words_flip_is_no_state_of_its_version(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *SAVED_EACH_ROUND, *ROUNDS)
    trained(folder, upto=3)
    older = folder.state / "state-2.safetensors"
    data = older.read_bytes()
    assert data.count(b'\\"images\\": 16') == 1
    older.write_bytes(data.replace(b'\\"images\\": 16', b'\\"images\\": 17'))
    with serving(folder) as run:
        until((folder.damaged / older.name).is_file)
        until(lambda: problems(run) == {})


# -- the anchor ---------------------------------------------------------------------------------------------------


def anchored(root: Path, *overrides: str) -> RunFolder:
    """A run whose anchor is at version 1, with the saved states of versions 2 and 3."""
    folder = tiny_run_folder(root, *SAVED_EACH_ROUND, *ROUNDS, *overrides)
    trained(folder, upto=2)
    with folder.locked(), closing(Ledger(folder.ledger)) as ledger:
        states = States(
            folder=folder.state,
            exports=folder.exports,
            damaged=folder.damaged,
            anchor=None,
            seed=lambda: pytest.fail("nobody asks for the seed"),
        )
        anchor = states.make_anchor(1)
        ledger.set_anchor(anchor)
        states.anchor_stored(anchor)
    trained(folder, upto=3)
    assert saved(folder) == ["anchor-1.safetensors", "state-2.safetensors", "state-3.safetensors"]
    assert replay(folder).from_version == 1
    return folder


def anchor_of(folder: RunFolder) -> int | None:
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        anchor = ledger.anchor()
    return anchor.version if anchor else None


def test_anchor_that_flips_is_found_by_whoever_replays_only(tmp_path: Path) -> None:
    """What happens without the scrubber."""
    folder = anchored(tmp_path, NOT_AT_ALL)
    flip(folder.state / "anchor-1.safetensors")
    with serving(folder) as run:
        assert problems(run) == {}
    with pytest.raises(IntegrityError, match=r"anchor-1\.safetensors is not a readable run state"):
        replay(folder)


@pytest.mark.parametrize("lost", ["flipped", "missing"])
def test_older_of_two_states_takes_a_damaged_anchors_place(tmp_path: Path, lost: str) -> None:
    folder = anchored(tmp_path)
    path = folder.state / "anchor-1.safetensors"
    lose(path, lost)
    with serving(folder) as run:
        until(lambda: anchor_of(folder) == 2)
        until(lambda: problems(run) == {})
    assert saved(folder) == ["anchor-2.safetensors", "state-3.safetensors"]
    found = replay(folder)
    assert (found.from_version, found.versions, found.contributions) == (2, 4, 1)
    with serving(folder) as run:
        swept = recovery(run)["swept"]
        assert (swept["blobs_deleted"], swept["leftovers_deleted"]) == (0, [])


def test_damaged_anchor_is_named_while_there_is_no_state_to_take_its_place(tmp_path: Path) -> None:
    folder = anchored(tmp_path)
    path = folder.state / "anchor-1.safetensors"
    flip(path)
    (folder.state / "state-2.safetensors").unlink()
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        until(lambda: "damaged:anchor-1.safetensors" in problems(run))
        assert f"{path} is restored from a backup" in problems(run)["damaged:anchor-1.safetensors"]
        assert anchor_of(folder) == 1
        train(run, anna, 4)  # the run goes on
        until(lambda: saved(folder)[1:] == ["state-3.safetensors", "state-4.safetensors"])
    with serving(folder) as run:
        until(lambda: anchor_of(folder) == 3)
        until(lambda: problems(run) == {})
    assert replay(folder).from_version == 3


# -- the autoencoder ----------------------------------------------------------------------------------------------

WEIGHTS = "autoencoder/diffusion_pytorch_model.safetensors"


def in_latents(root: Path, *overrides: str) -> RunFolder:
    encode_tiny_data(root)
    folder = RunFolder(root / "run")
    init_run(folder, tiny_config(*latent_overrides(root), *ROUNDS, *overrides))
    return folder


@pytest.mark.parametrize("lost", ["flipped", "missing"])
def test_autoencoder_is_named_until_it_is_restored(tmp_path: Path, lost: str) -> None:
    folder = in_latents(tmp_path, "evaluation.every_images=100000", "checkpoint.every_images=100000")
    path = folder.root / WEIGHTS
    copy = path.read_bytes()
    lose(path, lost)
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        until(lambda: f"damaged:{WEIGHTS}" in problems(run))
        assert f"restore {path} from a backup" in problems(run)[f"damaged:{WEIGHTS}"]
        train(run, anna, 1)
    path.write_bytes(copy)
    with serving(folder) as run:
        assert problems(run) == {}


@pytest.mark.filterwarnings("ignore:.LoraLoaderMixin. is deprecated:FutureWarning")  # PRXPipeline's own base
def test_no_checkpoint_is_exported_with_a_flipped_autoencoder_though_nobody_scrubs(tmp_path: Path) -> None:
    last = ("run.total_images=8", "evaluation.max_images=4", "evaluation.draws=1", "checkpoint.sampling_steps=1")
    folder = in_latents(tmp_path, *last, NOT_AT_ALL)
    flip(folder.root / WEIGHTS)
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        train(run, anna, 1)
        until(lambda: "damaged:held_out" in problems(run))
        assert f"{folder.root / WEIGHTS} is damaged or missing" in problems(run)["damaged:held_out"]
        assert run.get("/checkpoints.json").json()["checkpoints"] == []
    flip(folder.root / WEIGHTS)
    with serving(folder) as run:
        until(lambda: bool(run.status()["live"]["complete"]))
        assert len(run.get("/checkpoints.json").json()["checkpoints"]) == 1
        assert problems(run) == {}
