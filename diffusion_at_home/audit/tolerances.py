"""How far two honest results of a lease may be apart: measured by `scripts/bench.py audit`, told in docs/benchmarks.md.

How a worker's card keeps its weights is in its signed word. Weights that are kept exactly (fp32, or bf16 and a remainder,
computed with in fp32 or bf16) come `close`: what is within that is the lease. What is a little farther off is `doubtful`, in case
there are machines that nobody has measured, and says nothing. Weights that are rounded at random to 16 bits come `loose`, and so
do some cheats: of who says that it rounds, what is between the two says nothing. What is farther off is held against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from diffusion_at_home.audit.agreement import Tolerance
from diffusion_at_home.config.run import Codec, InnerSection


@dataclass(frozen=True, slots=True)
class Tolerances:
    """Of one codec."""

    close: Tolerance
    """Weights kept exactly."""
    doubtful: Tolerance
    """The same, with twice the noise."""
    loose: Tolerance
    """Weights of either kind."""


def tolerances(
    codec: Codec, learning_rate: float = 1e-3, num_full_steps: float = 24.0, *, sampled: bool = False
) -> Tolerances:
    """For deltas that travel by `codec`, both sides encoded; or for a few leaves of them, as they were before (`sampled`).

    Random rounding adds noise, beside which a lease is the shorter the lower its learning rate and the fewer its steps: the
    square of the ratio, measured at 1e-3, is taken to grow as these shrink. `num_full_steps` counts each step by its share of the
    rate, in the warm-up of a lease. A few leaves may lie where weights are large beside what a step changes.
    """
    noisier = (
        (_SAMPLED if sampled else 1.0)
        * max(1.0, _MEASURED_RATE / max(learning_rate, 1e-12))
        * max(1.0, _MEASURED_STEPS / max(num_full_steps, 1e-3))
    )
    loose = Tolerance(
        least_cosine=(1 + noisier * (_LOOSE.least_cosine**-2 - 1)) ** -0.5,
        most_stretch=(1 + noisier * (_LOOSE.most_stretch**2 - 1)) ** 0.5,
    )
    close, doubtful = (_CLOSE_INT4, _DOUBTFUL_INT4) if codec is Codec.INT4 else (_CLOSE, _DOUBTFUL)
    return Tolerances(close, doubtful, loose)


def full_steps(inner: InnerSection, images: int) -> float:
    """Steps of a lease of so many images, those of its warm-up by their share of the rate."""
    steps = -(-images // inner.batch_images)
    warming = min(steps, inner.warmup_steps)
    return steps - warming + warming * (warming + 1) / 2 / (inner.warmup_steps + 1)


_LOOSE: Final = Tolerance(least_cosine=0.85, most_stretch=1.15)
_CLOSE: Final = Tolerance(least_cosine=0.995, most_stretch=1.02)
_CLOSE_INT4: Final = Tolerance(least_cosine=0.993, most_stretch=1.02)
_DOUBTFUL: Final = Tolerance(least_cosine=0.98, most_stretch=1.04)
_DOUBTFUL_INT4: Final = Tolerance(least_cosine=0.97, most_stretch=1.04)

_SAMPLED: Final = 3.0
"""Square of how much noisier a tenth of a small model is than the whole, and a little more: docs/benchmarks.md."""

_MEASURED_RATE: Final = 1e-3
_MEASURED_STEPS: Final = 2.0
"""Full ones, of the shortest leases: 4 steps within a warm-up of 4."""
