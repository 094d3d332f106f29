"""What the operator decides about a data set: `dah data build --config FILE`, or `--set key=value`.

The result is a function of the source and these settings; `processes` alone changes nothing but the time.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from diffusion_at_home.config.toml import Section
from diffusion_at_home.config.values import Count, Fraction, Positive
from diffusion_at_home.data.buckets import bucket_sizes
from diffusion_at_home.data.manifest import MAX_SIDE
from diffusion_at_home.data.opt_outs import OptOuts, read_opt_outs
from diffusion_at_home.data.picture import PictureFormat, PictureRules
from diffusion_at_home.data.screens import Screens, parse_score_rule
from diffusion_at_home.errors import ConfigError

Side = Annotated[int, Field(gt=0, le=MAX_SIDE, strict=True)]
Factor = Annotated[float, Field(ge=1, strict=True)]
Text = Annotated[str, Field(max_length=2000)]


class BuildSettings(Section):
    """Every key stands by itself; a kind of source may have defaults of its own."""

    name: Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9._-]{0,62})?$")] = ""
    """Short name of the data set: lower-case letters, digits, '.', '_' and '-'; empty takes that of the source."""
    license: Annotated[str, Field(min_length=1, max_length=100)] = "unknown"
    """Licence of pictures for which the source names none (SPDX identifier)."""
    source: Text = ""
    """Where pictures come from for which the source does not say; empty takes the description of the whole."""
    author: Text = ""
    """Author of pictures for which the source names none."""

    base: Side = 256
    """Side of the square whose area no bucket exceeds (pixels)."""
    step: Side = 32
    """Sides of buckets are multiples of this (pixels)."""
    min_side: Annotated[int, Field(ge=0, le=MAX_SIDE, strict=True)] = 0
    """Shortest side of a bucket (pixels); 0 is half of base."""
    max_side: Annotated[int, Field(ge=0, le=MAX_SIDE, strict=True)] = 0
    """Longest side of a bucket (pixels); 0 is twice base."""
    square: bool = False
    """Whether every picture is cropped to the base square, instead of sorted into buckets."""
    max_enlargement: Factor = 1.0
    """Most by which a picture may be enlarged to cover its bucket (factor); one that needs more is too small."""
    max_stretch: Factor = 1.5
    """Most by which a picture's aspect may differ from its bucket's (factor); one beyond is of extreme shape."""
    format: PictureFormat = PictureFormat.WEBP
    """How pictures are encoded: webp, jpg, or png (exact)."""
    quality: Annotated[int, Field(ge=1, le=100, strict=True)] = 90
    """Of webp and jpg (1 to 100)."""
    lossless: bool = False
    """Whether webp is exact."""
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for RGB; what the run's model.channels says."""

    duplicate_bits: Annotated[int, Field(ge=-1, le=16, strict=True)] = 3
    """Bits of 64 in which near-duplicates differ at most (see `data/duplicates.py`); -1 keeps all pictures."""
    licenses: tuple[str, ...] = ()
    """Licences that are allowed, without regard to case; empty allows all."""
    opt_out: Path | None = None
    """File with one sha256 of a picture's file, or one URL, a line, of those who do not take part."""
    scores: tuple[str, ...] = ()
    """Rules on columns of numbers, as "aesthetic>=5" or "unsafe<=0.1"; a picture that breaks one is left out."""

    held_out_share: Fraction = 0.01
    """Share of pictures that are never trained on, chosen by a hash of their names."""
    shard_samples: Positive = 1000
    """Most pictures in a shard."""
    shard_mib: Positive = 64
    """Bytes of pictures after which a shard is full (MiB)."""
    mixed_shards: Positive = 16
    """Shards' worth of pictures that are mixed before they are cut into shards; 1 keeps the order of the source."""
    processes: Count = 0
    """Processes that read pictures; 0 is one for each core."""

    @property
    def shortest_side(self) -> int:
        """Pixels."""
        return self.min_side or max(self.step, self.base // 2)

    @property
    def longest_side(self) -> int:
        """Pixels."""
        return self.max_side or min(MAX_SIDE, 2 * self.base)

    def picture_rules(self) -> PictureRules:
        """What becomes of each picture. Raises `ConfigError` if no bucket fits the sides."""
        buckets = bucket_sizes(self.base, self.step, self.shortest_side, self.longest_side)
        return PictureRules(
            buckets=((self.base, self.base),) if self.square else buckets,
            max_stretch=self.max_stretch,
            max_enlargement=self.max_enlargement,
            channels=self.channels,
            format=self.format,
            quality=self.quality,
            lossless=self.lossless,
        )

    def screens(self) -> Screens:
        """What each picture is held against. Raises `ConfigError` if a rule or the file of opt-outs cannot be read."""
        return Screens(
            licenses=frozenset(self.licenses),
            opt_outs=OptOuts() if self.opt_out is None else read_opt_outs(self.opt_out),
            scores=tuple(map(parse_score_rule, self.scores)),
        )

    def identity(self) -> dict[str, Any]:
        """What the result depends on, as plain data. Raises `ConfigError` if the opt-out file cannot be read."""
        plain = self.model_dump(mode="json", exclude={"processes"})
        if self.opt_out is not None:
            plain["opt_out"] = f"sha256:{_digest(self.opt_out)}"
        return plain


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"opt_out: {path} cannot be read ({error.strerror}): name the file with the list") from None
