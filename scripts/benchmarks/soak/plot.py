"""Two runs' held-out loss by images, as a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.soak.camp import Trained


def draw(path: Path, disturbed: Trained, calm: Trained) -> None:
    """Write a PNG."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, trained, line in (("calm", calm, "-"), ("everything fails now and then", disturbed, "--")):
        axes.plot([images for images, _ in trained.losses], [loss for _, loss in trained.losses], line, label=name)
    axes.set_xlabel("accepted images")
    axes.set_ylabel("held-out loss")
    axes.set_yscale("log")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
