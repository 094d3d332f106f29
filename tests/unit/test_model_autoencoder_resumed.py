"""A training of an autoencoder that was killed goes on, and comes to the same bits; another one is never mistaken for it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from diffusion_at_home.errors import ConfigError, DataError
from diffusion_at_home.model.autoencoder_training import TrainedAutoencoder, train_autoencoder
from tests.unit.square_pictures import build_squares, small_training

AT_EACH_STEP, NEVER = timedelta(0), timedelta(days=1)
LONG = ("images=72", "window=4")
"""Two epochs and a bit, of windows that are drawn."""


class Killed(Exception):
    """The process is gone."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    build_squares(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedAutoencoder:
    return train_autoencoder(pictures, tmp_path_factory.mktemp("calm") / "made", small_training(*LONG))


def killed_at(images: int) -> Callable[[int, float], None]:
    def look(trained: int, _: float) -> None:
        if trained >= images:
            raise Killed

    return look


def train_until(images: int, pictures: Path, out: Path, *overrides: str, saving: timedelta = AT_EACH_STEP) -> None:
    with pytest.raises(Killed):
        train_autoencoder(
            pictures,
            out,
            small_training(*(overrides or LONG)),
            on_images=killed_at(images),
            between_saves=saving,
        )


@pytest.mark.parametrize("kills", [(16,), (20,), (8, 24, 40, 60), (72,)])
def test_killed_training_goes_on_to_the_same_bits(
    pictures: Path, undisturbed: TrainedAutoencoder, tmp_path: Path, kills: tuple[int, ...]
) -> None:
    out = tmp_path / "made"
    for images in kills:
        train_until(images, pictures, out)
        assert not out.exists()
    seen: list[int] = []
    made = train_autoencoder(pictures, out, small_training(*LONG), on_images=lambda images, _: seen.append(images))
    assert seen[0] >= kills[-1]
    assert (made.weights_digest, made.psnr_db) == (undisturbed.weights_digest, undisturbed.psnr_db)
    assert not list(tmp_path.glob(".*"))


def test_what_was_not_saved_is_trained_again(pictures: Path, undisturbed: TrainedAutoencoder, tmp_path: Path) -> None:
    out = tmp_path / "made"
    train_until(24, pictures, out)
    train_until(48, pictures, out, saving=NEVER)
    seen: list[int] = []
    made = train_autoencoder(pictures, out, small_training(*LONG), on_images=lambda images, _: seen.append(images))
    assert seen[0] == 28  # batches of 8, 8, 4 and 8: two shards, 20 and 12 pictures
    assert made.weights_digest == undisturbed.weights_digest


@pytest.mark.parametrize(
    ("override", "why"), [("seed=1", "seed = 0 instead of 1"), ("images=80", "images = 72 instead of 80")]
)
def test_other_settings_are_refused_and_nothing_is_lost(
    pictures: Path, undisturbed: TrainedAutoencoder, tmp_path: Path, override: str, why: str
) -> None:
    out = tmp_path / "made"
    train_until(24, pictures, out)
    with pytest.raises(ConfigError, match=rf"\.made\.training\.safetensors was saved by a training with {why}"):
        train_autoencoder(pictures, out, small_training(*LONG, override))
    assert train_autoencoder(pictures, out, small_training(*LONG)).weights_digest == undisturbed.weights_digest


def test_other_pictures_are_refused(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "made"
    train_until(24, pictures, out)
    other = build_squares(tmp_path / "other").model_copy(update={"source": "made for another test"})
    other.save(tmp_path / "other")
    with pytest.raises(ConfigError, match="by a training with other pictures"):
        train_autoencoder(tmp_path / "other", out, small_training(*LONG))


@pytest.mark.parametrize("where", [100, -100])
def test_what_was_saved_and_is_damaged_is_named_and_not_trained_on(pictures: Path, tmp_path: Path, where: int) -> None:
    out, saved = tmp_path / "made", tmp_path / ".made.training.safetensors"
    train_until(24, pictures, out)
    data = bytearray(saved.read_bytes())
    data[where] ^= 1
    saved.write_bytes(data)
    with pytest.raises(DataError, match=r"\.made\.training\.safetensors is damaged .*: delete it and train again"):
        train_autoencoder(pictures, out, small_training(*LONG))
    saved.unlink()
    train_autoencoder(pictures, out, small_training(*LONG))
