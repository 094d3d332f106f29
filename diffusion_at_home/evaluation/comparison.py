"""Drawn pictures against real ones: every figure with its floor and ceiling, taken in the same way on real pictures and on noise.

Shapes: N pictures, T side of a thumbnail, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from diffusion_at_home.evaluation import distances
from diffusion_at_home.evaluation.augment import LIGHT, augment
from diffusion_at_home.evaluation.distances import Floats
from diffusion_at_home.evaluation.features import Encoder, squared
from diffusion_at_home.evaluation.gallery import RealPictures
from diffusion_at_home.evaluation.levels import to_levels, to_unit
from diffusion_at_home.evaluation.memorisation import near_limit, nearest, nearest_other
from diffusion_at_home.evaluation.result import Accuracy, Distance, Figure, Nearness, Retrieval
from diffusion_at_home.evaluation.retrieval import accuracy, chance
from diffusion_at_home.evaluation.sheet import Row

_PIXEL_SIDE: Final = 32
"""Pictures are compared by pixels at this side."""
_SUBSETS: Final = 10


class Reference:
    """The real pictures of a data set in the features of one encoder; a function of those and the seed."""

    def __init__(self, encoder: Encoder, training: RealPictures, held_out: RealPictures, *, seed: int) -> None:
        self._encoder = encoder
        self._seed = seed
        self._captions = (*training.captions, *held_out.captions)
        self._thumbnails_NCTT = torch.cat([training.thumbnails_NCTT, held_out.thumbnails_NCTT])
        self._num_training = len(training.captions)
        self._real_NF = encoder.features(to_unit(self._thumbnails_NCTT))
        self._training_NF = self._real_NF[: self._num_training]

    def frechet(self, drawn_NF: Floats) -> Distance:
        """The Frechet distance to training pictures."""
        return self._distance(drawn_NF, distances.frechet)

    def kernel(self, drawn_NF: Floats) -> Distance:
        """The kernel distance to training pictures."""
        return self._distance(drawn_NF, distances.kernel_distance)

    def retrieval(self, drawn_NF: Floats, asked: Sequence[str], candidates: int) -> Retrieval:
        """How often what was drawn for `asked` leads back to it, among all real pictures."""
        noise_NF = self._encoder.features(self._noise(len(asked)))
        real_NF, own = self._answers(asked)

        def top(count: int) -> Accuracy:
            def found(queries_NF: Floats, captions: Sequence[str], own: Sequence[int] | None = None) -> float:
                return accuracy(
                    queries_NF, captions, self._real_NF, self._captions, top=count, candidates=candidates, own=own
                )

            return Accuracy(
                value=found(drawn_NF, asked),
                chance=chance(asked, self._captions, top=count, candidates=candidates),
                noise=found(noise_NF, asked),
                shuffled=found(drawn_NF, [*asked[1:], asked[0]]),
                ceiling=found(real_NF, asked, own),
            )

        return Retrieval(len(asked), min(candidates, len(self._captions)), top(1), top(5))

    def nearness(self, drawn_NCHW: Tensor, drawn_NF: Floats) -> tuple[Nearness, Nearness]:
        """Memorisation, in features and in pixels."""
        views_NCTT = self._views(range(min(self._num_training, len(drawn_NF))))
        real_ND = _pixels(to_unit(self._thumbnails_NCTT))
        return (
            self._nearness(self._real_NF, drawn_NF, self._encoder.features(views_NCTT)),
            self._nearness(real_ND, _pixels(drawn_NCHW), _pixels(views_NCTT)),
        )

    def rows(self, captions: Sequence[str], drawn_NCHW: Tensor) -> list[Row]:
        """For people: each drawn picture, the nearest real one and one of its caption, at one size."""
        nearest_N = (self._encoder.features(drawn_NCHW) @ self._real_NF.T).argmax(axis=1)
        shown_NCHW = to_levels(drawn_NCHW)
        rows = []
        for index, caption in enumerate(captions):
            found, right = int(nearest_N[index]), self._captions.index(caption)
            pictures = (shown_NCHW[index], self._thumbnails_NCTT[found], self._thumbnails_NCTT[right])
            rows.append(Row(caption, pictures, right=self._captions[found] == caption))
        return rows

    def _distance(self, drawn_NF: Floats, distance: Callable[[Floats, Floats], float]) -> Distance:
        """Drawn, real and noise pictures are compared with the same training pictures, of which the real ones are none."""
        order_N = np.random.default_rng(self._seed).permutation(self._num_training)
        apart = min(len(drawn_NF), self._num_training // 2)
        real_NF, others_NF = self._training_NF[order_N[:apart]], self._training_NF[order_N[apart:]]
        return Distance(
            value=distance(drawn_NF, others_NF),
            spread=distances.spread(drawn_NF, others_NF, distance, subsets=_SUBSETS, seed=self._seed),
            floor=distance(real_NF, others_NF),
            ceiling=distance(self._encoder.features(self._noise(len(drawn_NF))), others_NF),
        )

    def _answers(self, asked: Sequence[str]) -> tuple[Floats, list[int]]:
        """The features of a perfect drawing for each caption, and which real picture it is, -1 if it is a view of one."""
        places = [self._captions.index(caption) for caption in asked]
        views_NF = self._encoder.features(self._views(places))
        many = [self._captions.count(caption) > 1 for caption in asked]
        features_NF = np.where(np.array(many)[:, None], self._real_NF[places], views_NF)
        return features_NF, [place if other else -1 for place, other in zip(places, many, strict=True)]

    def _nearness(self, real_ND: Floats, drawn_ND: Floats, copies_ND: Floats) -> Nearness:
        training_ND, held_out_ND = real_ND[: self._num_training], real_ND[self._num_training :]
        fresh_N = nearest(held_out_ND, training_ND) if len(held_out_ND) else nearest_other(training_ND)
        drawn_N, copies_N = nearest(drawn_ND, training_ND), nearest(copies_ND, training_ND)
        limit, fresh = near_limit(training_ND), float(np.median(fresh_N))
        shares = [float((found_N <= limit).mean()) for found_N in (drawn_N, fresh_N, copies_N)]
        return Nearness(
            drawn=float(np.median(drawn_N)),
            fresh=fresh,
            copies=float(np.median(copies_N)),
            ratio=float(np.median(drawn_N)) / fresh if fresh > 0 else float("inf"),
            near_limit=limit,
            near_share=Figure(*shares),
        )

    def _views(self, places: Sequence[int]) -> Tensor:
        generator = torch.Generator().manual_seed(self._seed)
        return augment(to_unit(self._thumbnails_NCTT[list(places)]), generator, LIGHT)

    def _noise(self, count: int) -> Tensor:
        """Uniform noise, (count, 3, T, T) in [-1, 1]."""
        generator = torch.Generator().manual_seed(self._seed)
        return 2 * torch.rand((count, *self._thumbnails_NCTT.shape[1:]), generator=generator) - 1


def _pixels(pictures_NCHW: Tensor) -> Floats:
    pixels_ND: Floats = squared(pictures_NCHW, _PIXEL_SIDE).flatten(1).double().numpy()
    return pixels_ND
