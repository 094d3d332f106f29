from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from diffusion_at_home.evaluation.distances import Floats
from diffusion_at_home.evaluation.retrieval import accuracy, among_first, chance

NAMES = [f"glyph {index}" for index in range(60)]


def unit(seed: int, count: int) -> Floats:
    found = np.random.default_rng(seed).normal(size=(count, 16))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


REAL = unit(0, 60)


def test_probability_is_that_of_counting_all_sets_of_candidates() -> None:
    others, drawn = 7, 3
    for nearer in range(others + 1):
        for top in (1, 2, 5):
            sets = list(combinations(range(others), drawn))
            good = sum(sum(other < nearer for other in chosen) < top for chosen in sets)
            assert among_first(nearer, others, drawn, top) == pytest.approx(good / len(sets))


def test_accuracy_is_what_drawing_sets_at_random_comes_to() -> None:
    generator = np.random.default_rng(1)
    queries = REAL + 0.3 * generator.normal(size=REAL.shape)
    hits = []
    for _ in range(200):
        for query, place in zip(queries, range(60), strict=True):
            others = generator.choice([index for index in range(60) if index != place], size=9, replace=False)
            hits.append(query @ REAL[place] > (REAL[others] @ query).max())
    exact = accuracy(queries, NAMES, REAL, NAMES, top=1, candidates=10)
    assert 0.2 < exact < 0.95
    assert exact == pytest.approx(np.mean(hits), abs=4 * np.sqrt(0.25 / len(hits)))


def test_perfect_drawings_are_always_found_and_random_ones_as_often_as_by_chance() -> None:
    assert accuracy(REAL, NAMES, REAL, NAMES, top=1, candidates=50) == 1
    queries, asked = unit(5, 3000), [NAMES[index % 60] for index in range(3000)]
    for top in (1, 5):
        by_chance = chance(asked, NAMES, top=top, candidates=20)
        assert by_chance == pytest.approx(top / 20)
        assert accuracy(queries, asked, REAL, NAMES, top=top, candidates=20) == pytest.approx(by_chance, abs=0.03)


def test_pictures_that_are_all_alike_never_win() -> None:
    alike = np.ones((60, 16)) / 4
    assert accuracy(alike, NAMES, alike, NAMES, top=1, candidates=10) == 0
    assert accuracy(alike[:1], NAMES[:1], REAL, NAMES, top=1, candidates=60) in {0.0, 1.0}


def test_where_a_caption_has_several_pictures_each_is_the_right_one_in_turn() -> None:
    real = np.eye(4)
    captions = ["three", "three", "seven", "eight"]
    query = np.array([[1.0, 0.1, 0.5, 0.0]])  # nearest to the first three, then to the seven
    assert accuracy(query, ["three"], real, captions, top=1, candidates=3) == 0.5
    assert accuracy(query, ["three"], real, captions, top=1, candidates=3, own=[0]) == 0
    assert accuracy(query, ["three"], real, captions, top=2, candidates=3) == 1
    assert chance(["three"], captions, top=1, candidates=100) == pytest.approx(1 / 3)
