"""How good generated digits are: whether a classifier reads what the caption asked for, and how far the pictures lie.

Owns everything that needs scikit-learn (the extra 'digits'), which is imported on first use. A judge is trained on
the real digits and keeps some of them back, so that each figure comes with a floor (real digits that the judge has not
seen: nobody can do better) and a ceiling (uniform noise: nobody should do worse). No pretrained network is downloaded.

The Frechet distance is taken in the hidden layer of a small network that
has learnt to name the digits. Like FID it falls as the number of pictures grows: compare figures of equal numbers only.

Shapes: N images, H height, W width, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diffusion_at_home.data.digits import DIGIT_WORDS
from diffusion_at_home.errors import DataError
from diffusion_at_home.evaluation.distances import Floats, Gaussian, frechet_distance

Labels = npt.NDArray[np.int64]

_FEATURES = 64  # hidden units; the covariance needs several times as many images
_HELD_OUT = 6  # every sixth image of each class is kept from the judge


@dataclass(frozen=True, slots=True)
class DigitsScore:
    """What a judge says of a set of pictures."""

    class_accuracy: float
    """Share of pictures in which the classifier reads the digit that was asked for; 0.1 is chance."""
    frechet_distance: float
    """Squared distance between the Gaussians fitted to the features (no unit); 0 is the judge's own training set."""


class DigitsJudge:
    """A classifier and a feature space made from real digits; built by `train`, deterministic in its seed."""

    def __init__(self, classifier: Any, network: Any, real_NF: Floats, held_out: tuple[Floats, Labels]) -> None:
        self._classifier = classifier
        self._network = network
        self._held_out = held_out
        self._real = Gaussian.fit(real_NF)

    @classmethod
    def train(cls, images_NHW: npt.NDArray[Any], labels_N: npt.NDArray[Any], seed: int) -> DigitsJudge:
        """Train on five sixths of `images_NHW` (in [0, 1]) with `labels_N` (0 to 9); the rest makes the floor.

        Takes about a second of one core for 1,800 digits of 8 x 8. Raises `DataError` on under 12 images of a digit.
        """
        flat_NP, labels_N = _flat(images_NHW), np.asarray(labels_N, dtype=np.int64)
        counts = np.bincount(labels_N, minlength=len(DIGIT_WORDS))
        if counts.min() < 2 * _HELD_OUT:
            raise DataError(
                f"a digit has only {counts.min()} images, and its judge needs {2 * _HELD_OUT}: use all digits"
            )
        kept_N = _held_out_mask(labels_N, seed)
        with _one_thread():
            classifier = _train_classifier(flat_NP[~kept_N], labels_N[~kept_N])
            network = _train_network(flat_NP[~kept_N], labels_N[~kept_N], seed)
        real_NF = _features(network, flat_NP[~kept_N])
        return cls(classifier, network, real_NF, held_out=(flat_NP[kept_N], labels_N[kept_N]))

    def judge(self, images_NHW: npt.NDArray[Any], labels_N: npt.NDArray[Any]) -> DigitsScore:
        """Score `images_NHW` (in [0, 1], clipped if not) that were asked to show `labels_N`; at least two images.

        Raises `DataError` if a pixel is not finite.
        """
        return self._judge(_flat(images_NHW), np.asarray(labels_N, dtype=np.int64))

    def floor(self) -> DigitsScore:
        """The score of the real digits that were kept back."""
        return self._judge(*self._held_out)

    def ceiling(self) -> DigitsScore:
        """The score of uniform noise, as many pictures as `floor` has."""
        flat_NP, labels_N = self._held_out
        return self._judge(np.random.default_rng(0).random(flat_NP.shape), labels_N)

    def _judge(self, flat_NP: Floats, labels_N: Labels) -> DigitsScore:
        with _one_thread():
            read_N = self._classifier.predict(flat_NP)
        distance = frechet_distance(Gaussian.fit(_features(self._network, flat_NP)), self._real)
        return DigitsScore(class_accuracy=float((read_N == labels_N).mean()), frechet_distance=distance)


def digit_labels(captions: Sequence[str]) -> Labels:
    """The digit that each caption asks for, from its last word; raises `DataError` on a caption that names none."""
    values = {word: value for value, word in enumerate(DIGIT_WORDS)}
    words = [caption.split()[-1] if caption.split() else "" for caption in captions]
    unknown = next((caption for caption, word in zip(captions, words, strict=True) if word not in values), None)
    if unknown is not None:
        raise DataError(f"the caption {unknown!r} does not end in a digit's name: judge captions of the digits only")
    return np.array([values[word] for word in words], dtype=np.int64)


def _flat(images_NHW: npt.NDArray[Any]) -> Floats:
    images_NHW = np.asarray(images_NHW, dtype=np.float64)
    assert images_NHW.ndim == 3
    if not np.isfinite(images_NHW).all():
        raise DataError("a picture has pixels that are not finite: this version of the model is broken")
    return images_NHW.clip(0, 1).reshape(len(images_NHW), -1)


def _held_out_mask(labels_N: Labels, seed: int) -> npt.NDArray[np.bool_]:
    """True for every sixth image of each class, in an order shuffled by `seed`."""
    generator = np.random.default_rng(seed)
    mask_N = np.zeros(len(labels_N), dtype=np.bool_)
    for label in np.unique(labels_N):
        mask_N[generator.permutation(np.flatnonzero(labels_N == label))[::_HELD_OUT]] = True
    return mask_N


def _features(network: Any, flat_NP: Floats) -> Floats:
    """The hidden layer's activations after its ReLU."""
    features_NF: Floats = np.maximum(flat_NP @ network.coefs_[0] + network.intercepts_[0], 0)
    return features_NF


def _train_classifier(flat_NP: Floats, labels_N: Labels) -> Any:
    from sklearn.svm import SVC  # noqa: PLC0415  an extra

    return SVC(C=10.0, gamma="scale").fit(flat_NP, labels_N)


def _train_network(flat_NP: Floats, labels_N: Labels, seed: int) -> Any:
    from sklearn.neural_network import MLPClassifier  # noqa: PLC0415  an extra

    network = MLPClassifier((_FEATURES,), random_state=seed, batch_size=64, max_iter=200, tol=1e-3, n_iter_no_change=5)
    return network.fit(flat_NP, labels_N)


def _one_thread() -> Any:
    """One thread for BLAS and OpenMP: 64-pixel matrices gain nothing from more, and threads change the last bits."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # noqa: PLC0415  part of the extra

    return threadpool_limits(limits=1)
