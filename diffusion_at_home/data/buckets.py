"""The sizes that pictures of any shape are brought to, and which of them fits a picture best.

NovelAI's rule (github.com/NovelAI/novelai-aspect-ratio-bucketing): all sides are multiples of a step, and no bucket has a
larger area than the base square, so that a batch of any bucket takes about the same memory and time.
"""

from __future__ import annotations

from collections.abc import Iterable

from diffusion_at_home.data.manifest import Size
from diffusion_at_home.errors import ConfigError


def bucket_sizes(base: int, step: int, min_side: int, max_side: int) -> tuple[Size, ...]:
    """All buckets, sorted: for every width the greatest height, the same turned by a quarter, and the base square.

    Args:
        base: side of the square whose area no bucket exceeds (pixels).
        step: every side is a multiple of it (pixels).
        min_side: no side is shorter (pixels).
        max_side: no side is longer (pixels).

    Raises:
        ConfigError: the base square itself is no bucket.
    """
    if step < 1 or base < 1 or base % step:
        raise ConfigError(f"the base side {base} is no multiple of the step {step}: change one of them")
    if not min_side <= base <= max_side:
        raise ConfigError(
            f"the base side {base} is not between the shortest side {min_side} and the longest {max_side}"
        )
    shortest = max(1, -(-min_side // step)) * step
    sizes = {(base, base)}
    for width in range(shortest, max_side + 1, step):
        height = min(base**2 // width, max_side) // step * step
        if height >= shortest:
            sizes |= {(width, height), (height, width)}
    return tuple(sorted(sizes))


def stretch(size: Size, bucket: Size) -> float:
    """How many times wider or higher in shape `size` is than `bucket`: at least 1. The crop to it loses 1 - 1/stretch.

    It is exp |log (w/h) - log (W/H)|, rounded once only, so that every machine finds the same.
    """
    one, other = size[0] * bucket[1], size[1] * bucket[0]
    return max(one, other) / min(one, other)


def nearest_bucket(size: Size, buckets: Iterable[Size], *, max_stretch: float) -> Size | None:
    """The bucket whose log aspect ratio is nearest to that of `size`; of equally near ones the largest, then the narrowest.

    None if even that one's aspect differs by more than the factor `max_stretch`: the picture is pruned.
    """
    nearest = min(buckets, key=lambda bucket: (stretch(size, bucket), -bucket[0] * bucket[1], bucket[0]))
    return nearest if stretch(size, nearest) <= max_stretch else None
