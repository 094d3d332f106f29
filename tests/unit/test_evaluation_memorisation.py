from __future__ import annotations

import numpy as np
import pytest

from diffusion_at_home.evaluation.memorisation import near_limit, nearest, nearest_other

GENERATOR = np.random.default_rng(0)
TRAINING = GENERATOR.normal(size=(300, 12))


def test_nearest_is_the_loop_over_all_pairs() -> None:
    x = GENERATOR.normal(size=(20, 12))
    naive = [min(np.sqrt(np.square(a - b).mean()) for b in TRAINING) for a in x]
    assert nearest(x, TRAINING) == pytest.approx(np.array(naive))
    others = [
        min(np.sqrt(np.square(a - b).mean()) for j, b in enumerate(TRAINING) if j != i) for i, a in enumerate(TRAINING)
    ]
    assert nearest_other(TRAINING) == pytest.approx(np.array(others))


def test_copies_are_within_the_limit_and_fresh_pictures_are_not() -> None:
    limit = near_limit(TRAINING)
    copies = TRAINING[:50] + 0.01 * GENERATOR.normal(size=(50, 12))
    assert (nearest(copies, TRAINING) <= limit).all()
    assert (nearest(GENERATOR.normal(size=(500, 12)), TRAINING) <= limit).mean() < 0.05


def test_one_pair_of_near_duplicates_does_not_blind_the_limit() -> None:
    doubled = np.concatenate([TRAINING, TRAINING[:1]])
    assert near_limit(doubled) > 0
