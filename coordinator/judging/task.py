"""What the judging process is told, as JSON on its command line, and where it leaves what it found."""

from __future__ import annotations

from pathlib import Path

from diffusion_at_home.config.toml import Section


class JudgingTask(Section):
    """One judgement: `diffusion_at_home.evaluation.evaluate.EvaluationPlan`, and the bounds of the process."""

    checkpoint: Path
    """Its folder."""
    data: Path
    """Folder of the data set to compare with."""
    out: Path
    """Folder for everything that an evaluation writes."""
    result: Path
    """File for the result, JSON; written last."""
    encoder: Path | None
    """Folder; None trains a small one into `out`."""
    pictures: int
    real: int
    candidates: int
    steps: int | None
    """None are the run's."""
    threads: int
    """Of torch."""
    memory_bytes: int
    """Most that may be allocated; 0 is no limit."""
