"""What an evaluation writes into its folder, and under which names: for who keeps or shows it without evaluating anything."""

from __future__ import annotations

from pathlib import Path
from typing import Final

HISTORY_NAME: Final = "history.jsonl"
"""A line for each result, the newest last."""
PLOT_NAME: Final = "history.png"
"""Curves of the history, where matplotlib is installed."""
ANIMATION_NAME: Final = "animation.webp"
"""The grids of all checkpoints, one after another."""
TRAINED_NAME: Final = "trained.png"
"""Of trained captions: drawn, nearest and right picture."""
UNSEEN_NAME: Final = "unseen.png"
"""The same of unseen ones, where the data set has any."""


def grid_path(out: Path, run_id: str, images: int) -> Path:
    """What a run drew for the fixed prompts once it had trained `images`."""
    return out / "grids" / run_id / f"{images:012d}.png"


def own_encoder_path(out: Path, data_digest: str) -> Path:
    """The folder of the encoder that is trained on the data set of that digest."""
    return out / f"encoder-{data_digest[:12]}"
