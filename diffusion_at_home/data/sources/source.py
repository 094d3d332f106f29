"""What every source of pictures offers, so that the build knows none of them.

A source is a list of *units*, pieces of some hundred pictures that can be read apart from each other, in any order and by any
process. Its invariant: the same unit always yields the same pictures in the same order. What is wrong with one picture is
yielded as a `Refused`, not raised: a build never stops for one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Reason(StrEnum):
    """Why a picture is not in the data set."""

    UNREADABLE = "unreadable"
    """Its file cannot be read, or is no picture that we know, or is cut short."""
    TOO_LARGE = "too_large"
    """It declares more pixels or bytes than any honest picture has."""
    ANIMATED = "animated"
    TOO_SMALL = "too_small"
    """Fewer pixels than the bucket it would have to be enlarged to."""
    EXTREME_SHAPE = "extreme_shape"
    BLANK = "blank"
    """Of one colour all over."""
    NO_CAPTION = "no_caption"
    LICENSE = "license"
    """Its licence is not on the list of those allowed."""
    OPTED_OUT = "opted_out"
    SCORE = "score"
    """A column of the source says so: not safe, not good enough."""
    DUPLICATE = "duplicate"
    """Nearly the same as one that came before."""


@dataclass(frozen=True, slots=True)
class Raw:
    """One picture as its source has it; nothing of it has been believed yet."""

    name: str
    """What people find it by in the source, such as a path; unique there."""
    image: bytes
    """The encoded file."""
    captions: tuple[str, ...]
    """The first is the main one; none is a reason to refuse it."""
    source: str
    """Where it comes from: a URL, or words."""
    license: str
    author: str = ""
    url: str = ""
    """Where it was published, for those who have opted out."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Columns of numbers that filters may look at."""
    held_out: bool | None = None
    """Whether it is never trained on; None leaves that to the build."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A picture that cannot be used."""

    name: str
    reason: Reason
    detail: str = ""
    """For a person who wonders."""


class Source(ABC):
    """A kind of source at one place. Small, and picklable: every process of a build has its own."""

    name: str
    """Of the data set: lower-case letters, digits, '.', '_' and '-'."""
    description: str
    """Where the pictures come from, for the manifest."""
    license: str
    """Of the whole; "various" where pictures have their own."""

    @abstractmethod
    def units(self) -> Sequence[str]:
        """The names of all units, each unique, in order. Raises `DataError` if there is nothing to read."""

    @abstractmethod
    def read(self, unit: str) -> Iterator[Raw | Refused]:
        """The pictures of `unit`, in order. Raises `DataError` if the unit as a whole cannot be read."""
