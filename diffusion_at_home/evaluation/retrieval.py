"""Caption -> drawn picture -> the nearest of K real pictures, one of which has that caption: how often it is that one.

Nothing is drawn at random: what is computed is the mean over all sets of K candidates that there are. If b of the n real pictures
of other captions are as near as the right one, it is among the first `top` of K with probability

    sum over j < top of C(b, j) C(n - b, K - 1 - j) / C(n, K - 1),

the hypergeometric distribution. A tie counts against the drawing, so that pictures that are all alike never win.

Shapes: Q queries, N real pictures, F features.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from diffusion_at_home.evaluation.distances import Floats


def accuracy(
    queries_QF: Floats,
    asked: Sequence[str],
    real_NF: Floats,
    captions: Sequence[str],
    *,
    top: int,
    candidates: int,
    own: Sequence[int] | None = None,
) -> float:
    """The share of queries whose right picture is among the `top` nearest of `candidates`.

    Where several real pictures have the caption, each is the right one in turn. Where fewer than `candidates` real pictures are
    there, all are candidates. `own` names for each query the real picture it was made from, which is then none of them.

    Each caption in `asked` must be one of `captions`, of a picture that is not the query's own.
    """
    similarity_QN = queries_QF @ real_NF.T
    names_N = np.asarray(captions, dtype=object)
    shares = []
    for query, caption in enumerate(asked):
        similarity_N, right_N = similarity_QN[query], names_N == caption
        if own is not None:
            keep_N = np.arange(len(names_N)) != own[query]
            similarity_N, right_N = similarity_N[keep_N], right_N[keep_N]
        shares.append(_share(similarity_N, right_N, top=top, candidates=candidates))
    return float(np.mean(shares))


def chance(asked: Sequence[str], captions: Sequence[str], *, top: int, candidates: int) -> float:
    """What guessing gives."""
    counts = Counter(captions)
    sizes = [min(candidates, 1 + len(captions) - counts[caption]) for caption in asked]
    return float(np.mean([min(1.0, top / size) for size in sizes]))


def _share(similarity_N: Floats, right_N: npt.NDArray[np.bool_], *, top: int, candidates: int) -> float:
    others = np.sort(similarity_N[~right_N])
    drawn = min(candidates - 1, len(others))
    nearer = [len(others) - int(np.searchsorted(others, value, side="left")) for value in similarity_N[right_N]]
    assert nearer
    return float(np.mean([among_first(count, len(others), drawn, top) for count in nearer]))


@lru_cache(maxsize=2**16)
def among_first(nearer: int, others: int, drawn: int, top: int) -> float:
    """The probability that of `drawn` of `others`, `nearer` of which come before the right one, fewer than `top` do."""
    ways = sum(math.comb(nearer, j) * math.comb(others - nearer, drawn - j) for j in range(min(top, drawn + 1)))
    return ways / math.comb(others, drawn)
