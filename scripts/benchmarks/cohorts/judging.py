"""Draws with each model and judges what it drew, as `dah checkpoint evaluate` does."""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks.cohorts.training import Work, read_all
from diffusion_at_home.data.manifest import DataManifest
from diffusion_at_home.evaluation.comparison import Reference
from diffusion_at_home.evaluation.drawing import Artist
from diffusion_at_home.evaluation.features import Encoder
from diffusion_at_home.evaluation.gallery import KnownCaptions, read_real, thumbnail_side
from diffusion_at_home.evaluation.questions import ask
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.model.evaluation import Pictures, held_out_loss

_CANDIDATES = 100


class Judge:
    """The same captions, noise and real pictures for all."""

    def __init__(self, work: Work, encoder: Encoder, pictures: int) -> None:
        self._config, self._encoder = work.config, encoder
        manifest, known = DataManifest.load(work.data), KnownCaptions()
        side = thumbnail_side(manifest)

        def hear(captions: Sequence[str]) -> None:
            for caption in captions:
                known.add(caption)

        training = read_real(work.data, manifest.train, side=side, most=2048, seed=0, hear=hear)
        held_out = read_real(work.data, manifest.held_out, side=side, most=2048, seed=0)
        self._questions = ask(training.captions, held_out.captions, known, pictures=pictures, seed=0)
        self._reference = Reference(encoder, training, held_out, seed=0)
        self._held_out = Pictures(*read_all(work.data, manifest.held_out, work.config.model.channels))
        self._bounds: dict[str, float] = {}

    def figures(self, model: DiffusionModel) -> dict[str, float]:
        """Of one model, by metric."""
        artist, settings, asked = Artist("raw", model, self._config), self._config.checkpoint, self._questions
        loss = held_out_loss(model, [self._held_out], self._config.objective, draws=4, seed=0).mean
        started = time.monotonic()
        drawn, unseen = (
            artist.draw(
                captions,
                steps=settings.sampling_steps,
                guidance=settings.guidance_scale,
                seed=asked.seed,
                tell=lambda _: None,
            )
            for captions in (asked.trained, asked.unseen)
        )
        seconds = (time.monotonic() - started) / (len(drawn) + len(unseen))
        features = self._encoder.features(drawn)
        frechet, kernel = self._reference.frechet(features), self._reference.kernel(features)
        retrieval = self._reference.retrieval(features, asked.trained, _CANDIDATES)
        found = {
            "val_loss": loss,
            "frechet": frechet.value,
            "kernel": kernel.value,
            "retrieval": retrieval.top1.value,
            "retrieval_top_five": retrieval.top5.value,
            "seconds_a_picture": seconds,
        }
        self._bounds = {
            "frechet_of_real": frechet.floor,
            "frechet_of_noise": frechet.ceiling,
            "retrieval_of_real": retrieval.top1.ceiling,
            "retrieval_of_others": retrieval.top1.shuffled,
        }
        if asked.unseen:
            of_unseen = self._reference.retrieval(self._encoder.features(unseen), asked.unseen, _CANDIDATES)
            found |= {"unseen": of_unseen.top1.value, "unseen_top_five": of_unseen.top5.value}
        return found

    def bounds(self) -> dict[str, float]:
        """What real pictures and worthless ones get."""
        return self._bounds
