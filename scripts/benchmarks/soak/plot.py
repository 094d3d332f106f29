"""Two runs' held-out loss by images, as a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.soak.camp import Trained


def draw(path: Path, disturbed: Trained, calm: Trained) -> None:
    """Write a PNG; the weights before any training are left out, or nothing else would be seen."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, trained, line in (("calm", calm, "-"), ("everything fails now and then", disturbed, "--")):
        curve = [(images, loss) for images, loss in trained.losses if images]
        axes.plot([images for images, _ in curve], [loss for _, loss in curve], line, label=name)
    axes.set_xlabel("accepted images")
    axes.set_ylabel("held-out loss")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
