"""`dah checkpoint evaluate`: verify, read, encode, draw, compare, write down. Each step is a function of what the last ones made.

Into the folder it writes: the result beside all earlier ones (`history.jsonl`), sheets of drawn, nearest and right pictures, a
grid of the same prompts for each checkpoint, from these an animation, and curves of the history where matplotlib is installed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image
from torch import Tensor

from diffusion_at_home.checkpoint.manifest import CheckpointManifest, Weights
from diffusion_at_home.checkpoint.verify import verify as verify_checkpoint
from diffusion_at_home.data.manifest import DataManifest
from diffusion_at_home.data.manifest import verify as verify_data
from diffusion_at_home.errors import DataError
from diffusion_at_home.evaluation.animation import Frame, animate
from diffusion_at_home.evaluation.comparison import Reference
from diffusion_at_home.evaluation.drawing import Artist
from diffusion_at_home.evaluation.encoder_training import STEPS
from diffusion_at_home.evaluation.features import ENCODER_NAME, Encoder, load_encoder
from diffusion_at_home.evaluation.gallery import KnownCaptions, RealPictures, read_real, thumbnail_side
from diffusion_at_home.evaluation.levels import to_levels
from diffusion_at_home.evaluation.places import (
    ANIMATION_NAME,
    PLOT_NAME,
    TRAINED_NAME,
    UNSEEN_NAME,
    grid_path,
    own_encoder_path,
)
from diffusion_at_home.evaluation.plot import can_plot, plot_history
from diffusion_at_home.evaluation.questions import Questions, ask
from diffusion_at_home.evaluation.result import Asked, EvaluationResult, Loss, append_history
from diffusion_at_home.evaluation.sheet import answer_sheet, grid, save_picture
from diffusion_at_home.evaluation.small_encoder import SmallEncoder
from diffusion_at_home.model.evaluation import HeldOutLoss
from diffusion_at_home.model.times import EVALUATED_TIMES

Tell = Callable[[str, int, int], None]
"""Told what is under way, how much of it is done, and of how much."""

_FEWEST_REAL: Final = 16
"""Training pictures: with fewer there is nothing to compare with."""
_SHEET_PROMPTS: Final = 40
_SAME: Final = ("run_id", "data", "encoder_sha256", "asked")
"""Results that agree in these are points of one curve."""


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """What to judge, by what, and how thoroughly."""

    checkpoint: Path
    data: Path
    out: Path
    encoder: Path | None = None
    """A folder; None trains a small one on the data set, once, into `out`."""
    encoder_steps: int = STEPS
    """That the small one is trained."""
    weights: Weights | None = None
    """None are the checkpoint's default ones."""
    pictures: int = 100
    """Drawn of trained captions, and at most of unseen ones."""
    real: int = 2048
    """Most real pictures of each split to compare with."""
    candidates: int = 100
    """Of retrieval."""
    steps: int | None = None
    """Denoising steps; None are the run's."""
    guidance: float | None = None
    """None is the run's."""
    seed: int = 0
    """Of captions and noise."""


def evaluate(plan: EvaluationPlan, tell: Tell = lambda *_: None) -> EvaluationResult:
    """Do all of it.

    Raises:
        IntegrityError: the checkpoint is not what its manifest says.
        DataError: the data set or the encoder is missing, damaged or too small, or the weights draw what is not finite.
        StorageError: `plan.out` is not writable.
    """
    started = time.monotonic()
    manifest = verify_checkpoint(plan.checkpoint)
    data = DataManifest.load(plan.data)
    verify_data(plan.data, data)
    training, held_out, questions = _read(plan, data, tell)
    encoder = _encoder(plan, data, training, tell)
    artist = Artist.load(plan.checkpoint, manifest, plan.weights or manifest.default_weights)
    steps, guidance = plan.steps or artist.steps, plan.guidance or artist.guidance
    total = len(questions.trained) + len(questions.unseen)

    def draw(captions: Sequence[str], before: int) -> Tensor:
        heard = lambda done: tell("drawing", before + done, total)  # noqa: E731
        return artist.draw(captions, steps=steps, guidance=guidance, seed=questions.seed, tell=heard)

    drawn, unseen = draw(questions.trained, 0), draw(questions.unseen, len(questions.trained))
    losses = _losses(plan, manifest, data, artist, tell)
    tell("comparing", 0, 1)
    reference = Reference(encoder, training, held_out, seed=plan.seed)
    features, unseen_features = encoder.features(drawn), encoder.features(unseen) if len(unseen) else None
    nearness = reference.nearness(drawn, features)
    result = EvaluationResult(
        checkpoint=manifest.name,
        run_id=manifest.run_id,
        version=manifest.version,
        images=manifest.images,
        weights=artist.weights,
        data=data.digest,
        own_data=data.digest == manifest.data.digest,
        encoder=encoder.name,
        encoder_sha256=encoder.sha256,
        asked=Asked(
            len(drawn), len(unseen), plan.seed, steps, guidance, len(training.captions) + len(held_out.captions)
        ),
        times=EVALUATED_TIMES,
        loss={which: _loss(loss) for which, loss in losses.items()},
        frechet=reference.frechet(features),
        kernel=reference.kernel(features),
        retrieval=reference.retrieval(features, questions.trained, plan.candidates),
        unseen=None
        if unseen_features is None
        else reference.retrieval(unseen_features, questions.unseen, plan.candidates),
        memorised_features=nearness[0],
        memorised_pixels=nearness[1],
        seconds=round(time.monotonic() - started, 1),
    )
    _write(plan.out, result, reference, (questions.trained, drawn), (questions.unseen, unseen))
    tell("comparing", 1, 1)
    return result


def _read(plan: EvaluationPlan, data: DataManifest, tell: Tell) -> tuple[RealPictures, RealPictures, Questions]:
    known, side, total = KnownCaptions(), thumbnail_side(data), data.num_train_images
    heard = 0

    def hear(captions: Sequence[str]) -> None:
        nonlocal heard
        heard += 1
        tell("reading", heard, total)
        for caption in captions:
            known.add(caption)

    training = read_real(plan.data, data.train, side=side, most=plan.real, seed=plan.seed, hear=hear)
    held_out = read_real(plan.data, data.held_out, side=side, most=plan.real, seed=plan.seed)
    if len(training.captions) < _FEWEST_REAL:
        raise DataError(
            f"{plan.data} has {len(training.captions)} training pictures: at least {_FEWEST_REAL} are needed"
        )
    questions = ask(training.captions, held_out.captions, known, pictures=plan.pictures, seed=plan.seed)
    return training, held_out, questions


def _encoder(plan: EvaluationPlan, data: DataManifest, training: RealPictures, tell: Tell) -> Encoder:
    if plan.encoder is not None:
        return load_encoder(plan.encoder)
    folder = own_encoder_path(plan.out, data.digest)
    if (folder / ENCODER_NAME).is_file():
        encoder = SmallEncoder.load(folder)
        if encoder.facts.data != data.digest:
            raise DataError(f"{folder} was trained on another data set: delete it, and it is trained anew")
        return encoder
    encoder = SmallEncoder.train(training.thumbnails_NCTT, data.digest, steps=plan.encoder_steps, tell=tell)
    encoder.save(folder)
    return encoder


def _losses(
    plan: EvaluationPlan, manifest: CheckpointManifest, data: DataManifest, artist: Artist, tell: Tell
) -> dict[Weights, HeldOutLoss]:
    """Of all sets of weights; `artist` has one of them."""
    found = dict[Weights, HeldOutLoss]()
    there = manifest.variants
    for place, weights in enumerate(there):
        tell("held-out loss", place, len(there))
        judged = artist if weights == artist.weights else Artist.load(plan.checkpoint, manifest, weights)
        loss = judged.held_out_loss(plan.data, data.held_out)
        if loss is not None:
            found[weights] = loss
    tell("held-out loss", len(there), len(there))
    return found


def _loss(loss: HeldOutLoss) -> Loss:
    return Loss(_finite(loss.mean), tuple(map(_finite, loss.bins)))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _write(
    out: Path,
    result: EvaluationResult,
    reference: Reference,
    *asked: tuple[Sequence[str], Tensor],
) -> None:
    line = result.to_json()
    history = append_history(out, line)
    for name, (captions, drawn) in zip((TRAINED_NAME, UNSEEN_NAME), asked, strict=True):
        if captions:
            rows = reference.rows(captions[:_SHEET_PROMPTS], drawn[:_SHEET_PROMPTS])
            save_picture(answer_sheet(rows), out / name)
    latest = grid_path(out, result.run_id, result.images)
    save_picture(grid(list(to_levels(asked[0][1][:_SHEET_PROMPTS]))), latest)
    _animate(latest.parent, out / ANIMATION_NAME)
    if can_plot():
        curve = {earlier["images"]: earlier for earlier in history if _comparable(earlier, line)}
        plot_history([*curve.values()], out / PLOT_NAME)


def _animate(grids: Path, path: Path) -> None:
    frames = []
    for file in sorted(file for file in grids.glob("*.png") if file.stem.isdigit()):
        with Image.open(file) as picture:
            frames.append(Frame(int(file.stem), picture.convert("RGB")))
    animate(frames, path)


def _comparable(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    return all(left.get(key) == right.get(key) for key in _SAME)
