"""Which pictures are asked for, and what the real ones say to good and bad drawings of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diffusion_at_home.data.manifest import DataManifest
from diffusion_at_home.evaluation.augment import LIGHT, augment
from diffusion_at_home.evaluation.comparison import Reference
from diffusion_at_home.evaluation.gallery import KnownCaptions, RealPictures, read_real, thumbnail_side
from diffusion_at_home.evaluation.levels import to_levels, to_unit
from diffusion_at_home.evaluation.questions import ask
from diffusion_at_home.evaluation.small_encoder import SmallEncoder
from tests.unit.tiny_data import build_tiny_data
from tests.unit.tiny_glyphs import build_glyphs, glyphs

TRAINING, HELD_OUT = glyphs(held_out=False), glyphs(held_out=True)


def known(*captions: str) -> KnownCaptions:
    found = KnownCaptions()
    for caption in captions:
        found.add(caption)
    return found


def test_new_captions_of_known_words_are_told_from_the_others() -> None:
    words = known("a red heart", "A blue car")
    assert words.composes("a blue heart")
    assert not words.composes("a red HEART")
    assert not words.composes("a green heart")
    assert not words.composes("")


def test_questions_are_the_same_whatever_else_is_in_the_data_set() -> None:
    words = known(*TRAINING.captions)
    all_of_them = ask(TRAINING.captions, HELD_OUT.captions, words, pictures=20, seed=0)
    assert all_of_them == ask(TRAINING.captions[::-1], HELD_OUT.captions[::-1], words, pictures=20, seed=0)
    assert len(set(all_of_them.trained)) == 20
    fewer = ask(TRAINING.captions, HELD_OUT.captions, words, pictures=10, seed=0)
    assert fewer.trained == all_of_them.trained[:10]
    assert set(all_of_them.unseen) == set(HELD_OUT.captions)
    assert ask(TRAINING.captions, HELD_OUT.captions, words, pictures=20, seed=1).trained != all_of_them.trained


def test_a_data_set_of_few_captions_is_asked_for_each_again() -> None:
    questions = ask(["one", "two"], ["one"], known("one", "two"), pictures=7, seed=0)
    assert sorted(questions.trained[:2]) == ["one", "two"]
    assert questions.trained[2:4] == questions.trained[:2]
    assert (len(questions.trained), questions.unseen) == (7, ())


def test_real_pictures_are_read_whole_or_as_a_choice_of_the_seed(tmp_path: Path) -> None:
    manifest = build_glyphs(tmp_path / "data")
    heard = list[str]()
    read = read_real(tmp_path / "data", manifest.train, side=16, most=1000, seed=0, hear=heard.extend)
    assert read.captions == TRAINING.captions == tuple(heard)
    assert torch.equal(read.thumbnails_NCTT, TRAINING.thumbnails_NCTT)
    some = read_real(tmp_path / "data", manifest.train, side=16, most=7, seed=0)
    assert len(some.captions) == len(some.thumbnails_NCTT) == 7
    assert some.captions == read_real(tmp_path / "data", manifest.train, side=16, most=7, seed=0).captions
    assert some.captions != read_real(tmp_path / "data", manifest.train, side=16, most=7, seed=1).captions
    assert read_real(tmp_path / "data", (), side=16, most=7, seed=0).thumbnails_NCTT.shape == (0, 3, 16, 16)


def test_thumbnails_are_as_large_as_the_pictures_within_bounds(tmp_path: Path) -> None:
    manifest = build_tiny_data(tmp_path / "data")
    assert thumbnail_side(manifest) == 32
    wide = manifest.train[0].model_copy(update={"width": 48})
    assert thumbnail_side(DataManifest(**{**dict(manifest), "train": (wide,)})) == 48
    huge = manifest.train[0].model_copy(update={"height": 1024})
    assert thumbnail_side(DataManifest(**{**dict(manifest), "train": (huge,)})) == 64


@pytest.fixture(scope="module")
def reference() -> Reference:
    encoder = SmallEncoder.train(TRAINING.thumbnails_NCTT, "d" * 64, steps=25)
    return Reference(encoder, TRAINING, HELD_OUT, seed=0)


@pytest.fixture(scope="module")
def encoder() -> SmallEncoder:
    return SmallEncoder.train(TRAINING.thumbnails_NCTT, "d" * 64, steps=25)


def views(pictures: RealPictures, seed: int = 9) -> torch.Tensor:
    return augment(to_unit(pictures.thumbnails_NCTT), torch.Generator().manual_seed(seed), LIGHT)


def test_good_drawings_reach_the_ceiling_of_retrieval_and_noise_the_floor(
    reference: Reference, encoder: SmallEncoder
) -> None:
    good = reference.retrieval(encoder.features(views(TRAINING)), TRAINING.captions, 20)
    assert (good.prompts, good.candidates) == (60, 20)
    assert good.top1.value == pytest.approx(good.top1.ceiling, abs=0.05)
    assert good.top1.ceiling > 0.9
    assert good.top1.chance == pytest.approx(1 / 20)
    assert good.top5.chance == pytest.approx(5 / 20)
    assert max(good.top1.noise, good.top1.shuffled) < 0.15
    noise = 2 * torch.rand(60, 3, 16, 16, generator=torch.Generator().manual_seed(2)) - 1
    assert reference.retrieval(encoder.features(noise), TRAINING.captions, 20).top1.value < 0.15


def test_distances_of_good_drawings_lie_at_the_floor_and_of_noise_at_the_ceiling(
    reference: Reference, encoder: SmallEncoder
) -> None:
    good, bad = encoder.features(views(HELD_OUT)), encoder.features(2 * torch.rand(12, 3, 16, 16) - 1)
    for distance in (reference.frechet, reference.kernel):
        near, far = distance(good), distance(bad)
        assert near.floor == far.floor < far.ceiling
        assert near.value < 0.5 * far.value
        assert near.value - near.floor < 0.5 * (near.ceiling - near.floor)
        assert near.spread > 0


def test_copies_of_training_pictures_are_found_out_and_fresh_pictures_are_not(
    reference: Reference, encoder: SmallEncoder
) -> None:
    copies, fresh = to_unit(TRAINING.thumbnails_NCTT), to_unit(HELD_OUT.thumbnails_NCTT)
    for near in reference.nearness(copies, encoder.features(copies)):
        assert near.near_share.value == 1
        assert near.ratio < 0.01
    for near in reference.nearness(fresh, encoder.features(fresh)):
        assert near.near_share.value == near.near_share.floor < 0.5
        assert near.ratio == 1


def test_a_sheet_shows_what_was_drawn_beside_the_nearest_and_the_right_picture(reference: Reference) -> None:
    rows = reference.rows(TRAINING.captions[:3], to_unit(TRAINING.thumbnails_NCTT[[0, 1, 7]]))
    assert [row.right for row in rows] == [True, True, False]
    drawn, nearest, right = rows[2].pictures
    assert torch.equal(drawn, TRAINING.thumbnails_NCTT[7])
    assert torch.equal(nearest, TRAINING.thumbnails_NCTT[7])
    assert torch.equal(right, TRAINING.thumbnails_NCTT[2])


def test_levels_and_floats_are_the_same_pictures() -> None:
    assert torch.equal(to_levels(to_unit(TRAINING.thumbnails_NCTT)), TRAINING.thumbnails_NCTT)
