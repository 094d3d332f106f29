"""The report of a build: what became of every picture. `report.json` is this; `report_page.py` shows it to people."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from diffusion_at_home.config.toml import Section, first_mistake
from diffusion_at_home.data.manifest import Size
from diffusion_at_home.data.parts import PictureEntry
from diffusion_at_home.data.sources.source import Reason
from diffusion_at_home.errors import DataError, storage_errors

REPORT_NAME: Final = "report.json"

_MAX_EXAMPLES: Final = 5
_MAX_LICENSES: Final = 100
_OTHER_LICENSES: Final = "others"
CAPTION_WORDS: Final = (0, 5, 9, 17, 33, 65, 129)
"""Where the bars of the histogram begin (words)."""


class RefusedExample(Section):
    """One of the refused pictures."""

    name: str
    detail: str = ""


class RefusedCount(Section):
    """The pictures that were refused for one reason."""

    count: int
    examples: tuple[RefusedExample, ...]
    """The first few."""


class BucketCount(Section):
    """The pictures of one size."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    train: int
    held_out: int


class LengthCount(Section):
    """One bar of the histogram of main captions."""

    from_words: int
    """To the next bar's, exclusive."""
    pictures: int


class Report(Section):
    """What became of every picture of the source."""

    pictures: int
    """That the source has, refused ones among them."""
    train_images: int
    held_out_images: int
    buckets: tuple[BucketCount, ...]
    """The fullest first."""
    licenses: dict[str, int]
    """Pictures of each, the most frequent first."""
    captions: int
    """Of all pictures, further ones among them."""
    caption_words: tuple[LengthCount, ...]
    refused: dict[Reason, RefusedCount]
    """By reason, the most frequent first."""

    @classmethod
    def load(cls, folder: Path) -> Report | None:
        """The report in `folder`, if there is one. Raises `DataError` if it is damaged."""
        path = folder / REPORT_NAME
        if not path.is_file():
            return None
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise DataError(f"{path} is damaged ({first_mistake(error)}): delete it") from None

    def save(self, folder: Path) -> None:
        """Write `report.json` into `folder`. Raises `StorageError`."""
        with storage_errors(folder):
            (folder / REPORT_NAME).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


class Tally:
    """Counts while a data set is assembled."""

    def __init__(self) -> None:
        self._buckets = Counter[tuple[str, Size]]()
        self._licenses = Counter[str]()
        self._captions = 0
        self._caption_words = Counter[int]()
        self._refused = Counter[Reason]()
        self._examples: dict[Reason, list[RefusedExample]] = {}

    @property
    def num_kept(self) -> int:
        """Pictures that go into shards."""
        return self._caption_words.total()

    @property
    def num_refused(self) -> int:
        """Pictures that do not."""
        return self._refused.total()

    @property
    def license(self) -> str:
        """Of the whole: "various" where pictures have different ones."""
        return "various" if len(self._licenses) > 1 else next(iter(self._licenses), "unknown")

    def keep(self, entry: PictureEntry) -> None:
        """Count a picture that goes into a shard."""
        known = entry.license in self._licenses or len(self._licenses) < _MAX_LICENSES
        self._licenses[entry.license if known else _OTHER_LICENSES] += 1
        self._captions += entry.captions
        self._caption_words[max(start for start in CAPTION_WORDS if start <= entry.caption_words)] += 1

    def write(self, split: str, size: Size, num_samples: int) -> None:
        """Count a shard."""
        self._buckets[split, size] += num_samples

    def refuse(self, name: str, reason: Reason, detail: str = "") -> None:
        """Count a picture that does not go into a shard."""
        self._refused[reason] += 1
        examples = self._examples.setdefault(reason, [])
        if len(examples) < _MAX_EXAMPLES:
            examples.append(RefusedExample(name=name, detail=detail))

    def report(self) -> Report:
        """All of it, once everything is counted."""
        sizes = sorted(
            {size for _, size in self._buckets},
            key=lambda size: (-self._buckets["train", size] - self._buckets["held-out", size], size),
        )
        return Report(
            pictures=self.num_kept + self.num_refused,
            train_images=sum(self._buckets["train", size] for size in sizes),
            held_out_images=sum(self._buckets["held-out", size] for size in sizes),
            buckets=tuple(
                BucketCount(
                    width=size[0],
                    height=size[1],
                    train=self._buckets["train", size],
                    held_out=self._buckets["held-out", size],
                )
                for size in sizes
            ),
            licenses=dict(self._licenses.most_common()),
            captions=self._captions,
            caption_words=tuple(
                LengthCount(from_words=start, pictures=self._caption_words[start]) for start in CAPTION_WORDS
            ),
            refused={
                reason: RefusedCount(count=count, examples=tuple(self._examples[reason]))
                for reason, count in self._refused.most_common()
            },
        )
