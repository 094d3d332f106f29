"""`cohorts.json`: how a data set was cut. Beside it lie a data set for each cohort (`cohort-1`, ...) and `assignment.csv`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from diffusion_at_home.config.toml import Section, first_mistake
from diffusion_at_home.data.manifest import DataManifest
from diffusion_at_home.errors import DataError, storage_errors

DESCRIPTION_NAME: Final = "cohorts.json"
ASSIGNMENT_NAME: Final = "assignment.csv"
"""A line for each sample: split, shard and key in the data set that was cut, and its cohort."""
MOST_COHORTS: Final = 8
"""As many as the exported pipeline has places for."""

_MAX_BYTES: Final = 16 * 2**20
_REMEDY: Final = "cut the data again with `dah data cluster`"
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Cohort(Section):
    """One part of the data, for one run."""

    name: Annotated[str, Field(pattern=r"^cohort-[1-8]$")]
    """Of its folder."""
    digest: Digest
    """`DataManifest.digest` of its data set."""
    train_images: Annotated[int, Field(gt=0)]
    held_out_images: Annotated[int, Field(gt=0)]
    examples: tuple[str, ...]
    """Captions of the samples nearest to its centre."""


class Cohorts(Section):
    """All parts of one data set: every sample is in exactly one."""

    format: Literal[1] = 1
    """Of this file."""
    data: Digest
    """Digest of the data set that was cut."""
    data_name: str
    """Its name."""
    by: str
    """What samples were compared by: "captions", or an encoder's name."""
    by_sha256: Digest | Literal[""]
    """The encoder's (`Encoder.sha256`); empty for captions."""
    seed: Annotated[int, Field(ge=0)]
    """Of the clusters."""
    size_ratio: float
    """Train images of the largest cohort over those of the smallest."""
    cohorts: Annotated[tuple[Cohort, ...], Field(min_length=2, max_length=MOST_COHORTS)]
    centres: tuple[tuple[float, ...], ...]
    """Of each cohort, in the features of `by`."""
    prices: tuple[float, ...]
    """A sample belongs where its squared distance to the centre and this come to the least."""

    @classmethod
    def load(cls, folder: Path) -> Cohorts:
        """That of the cut in `folder`. Raises `DataError` also if a data set in it is missing or another."""
        path = folder / DESCRIPTION_NAME
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path} does not exist, or is none: {_REMEDY}")
        try:
            found = cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise DataError(f"{path} is not a description of cohorts ({first_mistake(error)}): {_REMEDY}") from None
        for cohort in found.cohorts:
            if DataManifest.load(folder / cohort.name).digest != cohort.digest:
                raise DataError(f"{folder / cohort.name} is not the data set that {path} names: {_REMEDY}")
        return found

    def save(self, folder: Path) -> None:
        """Write it. Raises `StorageError`."""
        with storage_errors(folder):
            (folder / DESCRIPTION_NAME).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
