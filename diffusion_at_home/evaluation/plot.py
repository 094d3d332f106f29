"""The history of a run's evaluations as curves; needs matplotlib (extra 'plots')."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from diffusion_at_home.errors import storage_errors

_PANELS: Final = (
    ("retrieval, top 1", (("retrieval", "top1", "value"), ("retrieval", "top1", "chance"), ("retrieval", "top1", "ceiling"))),
    ("kernel distance", (("kernel", "value"), ("kernel", "floor"), ("kernel", "ceiling"))),
    ("Frechet distance", (("frechet", "value"), ("frechet", "floor"), ("frechet", "ceiling"))),
    ("held-out loss", (("loss", "raw", "mean"), ("loss", "ema", "mean"))),
)  # fmt: skip


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def load_plotting() -> None:
    """Load it beforehand, where there is one: that takes a second, with the interpreter's lock held."""
    if can_plot():
        import matplotlib.figure  # noqa: F401, PLC0415


def plot_history(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the evaluations, sorted by images, into the PNG `path`. Raises `StorageError`."""
    from matplotlib.figure import Figure  # noqa: PLC0415 -- an extra

    figure = Figure(figsize=(10, 7), layout="constrained")
    images = [line["images"] for line in history]
    for axes, (title, curves) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        for place, keys in enumerate(curves):
            values = [_at(line, keys) for line in history]
            if not all(math.isnan(value) for value in values):
                style = "o-" if place == 0 or keys[-1] == "mean" else "--"
                axes.plot(images, values, style, label=" ".join(keys[1:]), linewidth=1.5 if style == "o-" else 1)
                axes.legend(fontsize=8)
        axes.set_title(title)
        axes.set_xlabel("images trained")
        axes.grid(visible=True, alpha=0.3)
    with storage_errors(path.parent):
        figure.savefig(path, dpi=110, format="png")


def plot_losses(images: Sequence[int], curves: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw held-out losses, each of `curves` as long as `images`, into the PNG `path`. Raises `StorageError`."""
    from matplotlib.figure import Figure  # noqa: PLC0415 -- an extra

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for name, losses in curves.items():
        axes.plot(images, losses, "o-", label=name, linewidth=1.5, markersize=3)
    axes.set_xlabel("images trained")
    axes.set_ylabel("loss on pictures that nobody trained on")
    axes.legend()
    axes.grid(visible=True, alpha=0.3)
    with storage_errors(path.parent):
        figure.savefig(path, dpi=110, format="png")


def _at(line: Any, keys: Sequence[str]) -> float:
    """NaN where there is no number: the curve has a gap there."""
    for key in keys:
        line = line.get(key) if isinstance(line, dict) else None
    return float(line) if isinstance(line, int | float) else math.nan
