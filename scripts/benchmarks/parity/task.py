"""The digits as a training task: what is trained on, what is held out, in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from diffusion_at_home.config.run import TextEncoderSection
from diffusion_at_home.data.digits import SIDE, digit_samples, digits_arrays
from diffusion_at_home.data.order import sample_order
from diffusion_at_home.data.shards import decode_images
from diffusion_at_home.model.text import train_tokenizer
from worker.trainer import Batch


class Task(Protocol):
    """What one model is trained on."""

    @property
    def tokenizer(self) -> bytes:
        """Its tokenizer.json."""

    def batches(self, seed: int, batch_images: int) -> Iterator[Batch]:
        """Epoch after epoch without end, in the order that a run with `seed` leases them."""


@dataclass(frozen=True, slots=True)
class DigitsTask:
    """N training images, V held-out ones, as workers decode them: of C = 3 channels, in [-1, 1]."""

    images_NCHW: Tensor
    captions: list[str]
    held_out_VCHW: Tensor
    held_out_captions: list[str]
    gray_MHW: npt.NDArray[np.float64]
    """All of them for the judge, in [0, 1]."""
    labels_M: npt.NDArray[np.int64]
    tokenizer: bytes

    @classmethod
    def load(cls, text: TextEncoderSection) -> DigitsTask:
        """The whole data set, with a tokenizer of its captions."""
        trained, held_out = list(digit_samples(held_out=False)), list(digit_samples(held_out=True))
        captions = [sample.caption for sample in trained]
        return cls(
            decode_images(trained, (SIDE, SIDE), 3),
            captions,
            decode_images(held_out, (SIDE, SIDE), 3),
            [sample.caption for sample in held_out],
            *digits_arrays(),
            train_tokenizer(captions, text),
        )

    def batches(self, seed: int, batch_images: int) -> Iterator[Batch]:
        """Epoch after epoch without end, in the order that a run with `seed` leases them."""
        epoch, order = 0, list[int]()
        while True:
            while len(order) < batch_images:
                order += sample_order(seed, epoch, 0, len(self.captions))
                epoch += 1
            take, order = order[:batch_images], order[batch_images:]
            yield Batch(self.images_NCHW[take], [self.captions[index] for index in take])
