"""Who judges the demo's pictures, by data set. Each figure stands between its floor and its ceiling.

For accuracies real pictures are the ceiling and noise the floor; for distances it is the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

Judge = Callable[[Path, Path, Path], dict[str, float]]
"""Called with the checkpoint, the data set and a folder for pictures; returns figures by name. Loads torch."""


def judge_digits(checkpoint: Path, data: Path, out: Path) -> dict[str, float]:  # noqa: ARG001 -- as the others
    """How many generated digits a classifier of the real ones reads right, and how far they are from real ones."""
    from diffusion_at_home.demo.score import score_digits  # noqa: PLC0415 -- torch only when it is needed

    found = score_digits(checkpoint)
    return {
        "class_accuracy": found.score.class_accuracy,
        "class_accuracy_floor": found.ceiling.class_accuracy,
        "class_accuracy_ceiling": found.floor.class_accuracy,
        "frechet_distance": found.score.frechet_distance,
        "frechet_distance_floor": found.floor.frechet_distance,
        "frechet_distance_ceiling": found.ceiling.frechet_distance,
    }


def judge_emoji(checkpoint: Path, data: Path, out: Path) -> dict[str, float]:
    """How often a generated emoji is nearest to the real one of its caption, among a hundred."""
    from diffusion_at_home.evaluation.evaluate import EvaluationPlan, evaluate  # noqa: PLC0415

    found = evaluate(EvaluationPlan(checkpoint=checkpoint, data=data, out=out / "evaluation"))
    top1 = found.retrieval.top1
    figures = {
        "retrieval": top1.value,
        "retrieval_chance": top1.chance,
        "retrieval_floor": max(top1.noise, top1.shuffled),
        "retrieval_ceiling": top1.ceiling,
        "frechet_distance": found.frechet.value,
        "frechet_distance_floor": found.frechet.floor,
        "frechet_distance_ceiling": found.frechet.ceiling,
    }
    return figures if found.unseen is None else {**figures, "retrieval_unseen": found.unseen.top1.value}


JUDGES: Final[dict[str, Judge]] = {"digits": judge_digits, "emoji": judge_emoji}
"""By the name of the data set, which `dah data build` knows."""
