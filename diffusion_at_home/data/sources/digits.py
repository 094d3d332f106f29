"""The handwritten digits as a source: in its order, every sixth of each digit held out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from diffusion_at_home.data import digits
from diffusion_at_home.data.sources.source import Raw, Refused, Source


@dataclass(frozen=True, slots=True)
class DigitsSource(Source):
    """`diffusion_at_home.data.digits` in one unit."""

    name = "digits"
    description = digits.SOURCE
    license = digits.LICENSE

    def units(self) -> Sequence[str]:
        """One: they are few and small."""
        return ("all",)

    def read(self, unit: str) -> Iterator[Raw | Refused]:
        """All of them. Raises `DataError` if scikit-learn is missing."""
        assert unit == "all"
        for sample, is_held_out in digits.all_digits():
            yield Raw(
                name=sample.key,
                image=sample.image,
                captions=(sample.caption,),
                source=sample.source,
                license=sample.license,
                held_out=is_held_out,
            )
