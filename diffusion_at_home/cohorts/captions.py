"""What captions are about, as points: rare words weigh the most, and words that come together lie together.

Latent semantic analysis (Deerwester et al. 1990) of TF-IDF weights, by scikit-learn, which is the extra `digits`.

Shapes: N captions, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from diffusion_at_home.cohorts.clusters import Floats
from diffusion_at_home.errors import ConfigError, DataError

_FEATURES: Final = 64
_MOST_WORDS: Final = 20_000


def caption_points(captions: Sequence[str], *, seed: int) -> Floats:
    """(N, F) of length 1, or 0 for a caption without a known word; the same for equal captions.

    Raises `ConfigError` if scikit-learn is not installed, `DataError` if the captions hold no words.
    """
    try:
        from sklearn.decomposition import TruncatedSVD  # noqa: PLC0415 -- takes seconds
        from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415
        from sklearn.preprocessing import normalize  # noqa: PLC0415
    except ImportError:
        raise ConfigError("clusters of captions need scikit-learn: pip install 'diffusion-at-home[digits]'") from None
    try:
        # Words and pairs of words, each once a caption: captions are short.
        weights = TfidfVectorizer(ngram_range=(1, 2), max_features=_MOST_WORDS, sublinear_tf=True).fit_transform(
            captions
        )
    except ValueError:
        raise DataError("the captions hold no words: cluster by pictures, with --encoder") from None
    features = min(_FEATURES, weights.shape[1] - 1, weights.shape[0] - 1)
    if features < 1:
        return np.asarray(weights.toarray(), dtype=np.float64)
    points_NF = TruncatedSVD(features, random_state=seed).fit_transform(weights)
    return np.asarray(normalize(points_NF), dtype=np.float64).round(9)  # equal captions, equal points to the bit
