from __future__ import annotations

import numpy as np
import pytest

from diffusion_at_home.data.digits import DIGIT_WORDS, caption, digits_arrays
from diffusion_at_home.errors import DataError
from diffusion_at_home.evaluation.digits_judge import DigitsJudge, digit_labels

IMAGES, LABELS = digits_arrays()


@pytest.fixture(scope="module")
def judge() -> DigitsJudge:
    return DigitsJudge.train(IMAGES, LABELS, seed=0)


def test_real_digits_pass_and_noise_fails(judge: DigitsJudge) -> None:
    floor, ceiling = judge.floor(), judge.ceiling()
    assert floor.class_accuracy > 0.97
    assert ceiling.class_accuracy < 0.2
    assert floor.frechet_distance < ceiling.frechet_distance / 50


def test_pictures_of_the_wrong_digit_are_found_out(judge: DigitsJudge) -> None:
    right, wrong = judge.judge(IMAGES, LABELS), judge.judge(IMAGES, (LABELS + 1) % 10)
    assert right.class_accuracy > 0.97
    assert wrong.class_accuracy < 0.01
    assert right.frechet_distance == wrong.frechet_distance


def test_one_picture_again_and_again_is_far_although_each_is_right(judge: DigitsJudge) -> None:
    digits = np.arange(500) % 10
    collapsed = judge.judge(np.stack([IMAGES[np.flatnonzero(digit == LABELS)[0]] for digit in digits]), digits)
    assert collapsed.class_accuracy > 0.9
    assert collapsed.frechet_distance > 5 * judge.floor().frechet_distance


def test_distance_grows_with_the_noise_on_the_pictures(judge: DigitsJudge) -> None:
    noise = np.random.default_rng(0).normal(size=IMAGES.shape)
    distances = [judge.judge(IMAGES + scale * noise, LABELS).frechet_distance for scale in (0.0, 0.1, 0.2, 0.4)]
    assert distances == sorted(distances)
    assert distances[-1] > 10 * distances[0]


def test_verdict_is_a_function_of_the_seed(judge: DigitsJudge) -> None:
    assert DigitsJudge.train(IMAGES, LABELS, seed=0).judge(IMAGES[:200], LABELS[:200]) == judge.judge(
        IMAGES[:200], LABELS[:200]
    )


def test_picture_that_is_not_finite_is_refused(judge: DigitsJudge) -> None:
    broken = IMAGES[:20].copy()
    broken[3, 0, 0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        judge.judge(broken, LABELS[:20])


def test_too_few_images_of_a_digit_make_no_judge() -> None:
    with pytest.raises(DataError, match="only 11 images"):
        DigitsJudge.train(IMAGES[: 11 * 10], np.repeat(np.arange(10), 11), seed=0)


def test_digits_are_read_from_their_captions() -> None:
    assert digit_labels([caption(digit) for digit in range(10)]).tolist() == list(range(10))
    for wrong in ("", "a cat", "three words"):
        with pytest.raises(DataError, match="does not end in a digit's name"):
            digit_labels([DIGIT_WORDS[0], wrong])
