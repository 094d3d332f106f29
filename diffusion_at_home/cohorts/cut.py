"""Cuts a data set into cohorts: one data set for each, of the same pictures, byte for byte, with every sample in exactly one.

Two passes over the shards: what each sample is like, then where it goes. Memory grows by some 600 bytes a sample for the first,
and by one shard a cohort for the second. Shards hold one size bucket each, so the samples are sorted into new ones; their order
is that of the data set.
"""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from diffusion_at_home.cohorts.captions import caption_points
from diffusion_at_home.cohorts.clusters import Clusters, Floats, Labels, cluster, size_ratio
from diffusion_at_home.cohorts.description import ASSIGNMENT_NAME, MOST_COHORTS, Cohort, Cohorts
from diffusion_at_home.data.assemble import Split
from diffusion_at_home.data.manifest import DataManifest, ShardEntry, Size, verify
from diffusion_at_home.data.shards import Sample, decode_images, read_shard, write_shard
from diffusion_at_home.errors import ConfigError, DataError, storage_errors
from diffusion_at_home.sync import sync_all, sync_folder

if TYPE_CHECKING:
    from diffusion_at_home.evaluation.features import Encoder

_EXAMPLES: Final = 8
_TOGETHER: Final = 256  # pictures decoded at once

Tell = Callable[[str, int, int], None]
"""Told what is under way, how many samples are done, and of how many."""


@dataclass(frozen=True, slots=True)
class CutPlan:
    """What to cut, into how many, by what."""

    data: Path
    out: Path
    """A new folder."""
    cohorts: int
    encoder: Path | None = None
    """Folder of an encoder of pictures; None compares captions."""
    seed: int = 0
    """Of the clusters."""
    most_ratio: float = 1.25
    """The largest cohort's train images may be so many times the smallest's."""


def cut(plan: CutPlan, tell: Tell = lambda *_: None) -> Cohorts:
    """Write a data set for each cohort and their description into `plan.out`, all or nothing.

    Raises `ConfigError` if the folder is taken, the number is out of range or the data set holds latents; `DataError` if the data
    cannot be cut so evenly, or a cohort has nothing held out; `StorageError`.
    """
    if not 2 <= plan.cohorts <= MOST_COHORTS:
        raise ConfigError(f"--cohorts {plan.cohorts} must be between 2 and {MOST_COHORTS}")
    if plan.out.exists():
        raise ConfigError(f"{plan.out} exists: choose a new folder for the cohorts")
    manifest = DataManifest.load(plan.data)
    if manifest.latents is not None:
        raise ConfigError(
            f"{plan.data} holds latents: cut the pictures that they were made of, then encode each cohort"
        )
    verify(plan.data, manifest)
    encoder = _encoder(plan.encoder)
    points, captions = _points(plan, manifest, encoder, tell)
    clusters = cluster(points[Split.TRAIN], plan.cohorts, seed=plan.seed, most_ratio=plan.most_ratio)
    labels = {split: clusters.assign(points[split]) for split in Split}
    _check(labels[Split.HELD_OUT], plan)
    draft = plan.out.with_name(f".{plan.out.name}.new")
    with storage_errors(plan.out):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        made = _write(plan.data, draft, manifest, labels, tell)
        described = Cohorts(
            data=manifest.digest,
            data_name=manifest.name,
            by="captions" if encoder is None else encoder.name,
            by_sha256="" if encoder is None else encoder.sha256,
            seed=plan.seed,
            size_ratio=size_ratio(labels[Split.TRAIN], plan.cohorts),
            cohorts=tuple(
                _described(k, part, _nearest(clusters, k, points[Split.TRAIN], labels[Split.TRAIN], captions))
                for k, part in enumerate(made)
            ),
            centres=tuple(tuple(row) for row in clusters.centres_KF.tolist()),
            prices=tuple(clusters.prices_K.tolist()),
        )
        described.save(draft)
        sync_all(draft)
        draft.rename(plan.out)
        sync_folder(plan.out.parent)
    return described


def shards_of(manifest: DataManifest, split: Split) -> Sequence[ShardEntry]:
    """Those that are trained on, or held out."""
    return manifest.train if split is Split.TRAIN else manifest.held_out


def _points(
    plan: CutPlan, manifest: DataManifest, encoder: Encoder | None, tell: Tell
) -> tuple[dict[Split, Floats], list[str]]:
    """What every sample is like, in the order of the shards, and the captions of those that are trained on."""
    texts: dict[Split, list[str]] = {split: [] for split in Split}
    captions, seen, total = list[str](), dict[Split, list[Floats]](), _num_samples(manifest)
    for split in Split:
        seen[split] = []
        for entry in shards_of(manifest, split):
            samples = read_shard(plan.data / entry.name, entry)
            texts[split] += [" ".join((one.caption, *one.further_captions)) for one in samples]
            captions += [one.caption for one in samples] if split is Split.TRAIN else []
            if encoder is not None:
                seen[split] += _features(encoder, samples, entry.size)
            tell("reading", sum(map(len, texts.values())), total)
    if encoder is not None:
        return {split: np.concatenate(parts or [np.empty((0, 1))]) for split, parts in seen.items()}, captions
    both = caption_points([*texts[Split.TRAIN], *texts[Split.HELD_OUT]], seed=plan.seed)
    num_train = len(texts[Split.TRAIN])
    return {Split.TRAIN: both[:num_train], Split.HELD_OUT: both[num_train:]}, captions


def _features(encoder: Encoder, samples: Sequence[Sample], size: Size) -> Iterator[Floats]:
    for start in range(0, len(samples), _TOGETHER):
        yield encoder.features(decode_images(samples[start : start + _TOGETHER], size, 3))


def _check(held_out_N: Labels, plan: CutPlan) -> None:
    for k, count in enumerate(np.bincount(held_out_N, minlength=plan.cohorts).tolist(), start=1):
        if not count:
            raise DataError(
                f"cohort {k} would have no held-out sample of {plan.data}: build that with a larger held_out_share, or make "
                "fewer cohorts"
            )


@dataclass(slots=True)
class _Part:
    """One cohort's data set while it is written."""

    folder: Path
    shards: dict[Split, list[ShardEntry]] = field(default_factory=lambda: {split: [] for split in Split})
    waiting: list[Sample] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)

    def add(self, sample: Sample, split: Split, size: Size, most: int) -> None:
        """Put `sample` into the next shard, which has at most so many."""
        if len(self.waiting) >= most or sample.key in self.keys:  # a key is unique in its shard only
            self.write(split, size)
        self.waiting.append(sample)
        self.keys.add(sample.key)

    def write(self, split: Split, size: Size) -> None:
        """Write what waits."""
        if self.waiting:
            done = self.shards[split]
            done.append(write_shard(self.folder / f"{split}-{len(done):05d}.tar", self.waiting, size))
            self.waiting, self.keys = [], set()


def _write(
    data: Path, out: Path, manifest: DataManifest, labels: dict[Split, Labels], tell: Tell
) -> list[tuple[DataManifest, int]]:
    """The data set of each cohort, and its held-out samples; and which sample went where."""
    cohorts = int(labels[Split.TRAIN].max()) + 1
    parts = [_Part(out / f"cohort-{k}") for k in range(1, cohorts + 1)]
    for part in parts:
        part.folder.mkdir()
    done, total = 0, _num_samples(manifest)
    with (out / ASSIGNMENT_NAME).open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(("split", "shard", "key", "cohort"))
        for split in Split:
            for size, entries in _by_size(shards_of(manifest, split), labels[split]):
                most = max(entry.num_samples for entry, _ in entries)
                for entry, labels_n in entries:
                    for sample, label in zip(read_shard(data / entry.name, entry), labels_n.tolist(), strict=True):
                        parts[label].add(sample, split, size, most)
                        lines.writerow((split.value, entry.name, sample.key, label + 1))
                    done += entry.num_samples
                    tell("writing", done, total)
                for part in parts:
                    part.write(split, size)
    return [_sealed(part, manifest, k) for k, part in enumerate(parts, start=1)]


def _by_size(entries: Sequence[ShardEntry], labels_N: Labels) -> Iterator[tuple[Size, list[tuple[ShardEntry, Labels]]]]:
    """Shards of one size after the other, each with the cohorts of its samples."""
    ends = np.cumsum([entry.num_samples for entry in entries])
    with_labels = list(zip(entries, np.split(labels_N, ends[:-1]) if len(ends) else [], strict=True))
    for size in dict.fromkeys(entry.size for entry in entries):
        yield size, [(entry, labels_n) for entry, labels_n in with_labels if entry.size == size]


def _sealed(part: _Part, manifest: DataManifest, number: int) -> tuple[DataManifest, int]:
    made = manifest.model_copy(
        update={
            "name": f"{manifest.name[:60]}-{number}",
            "train": tuple(part.shards[Split.TRAIN]),
            "held_out": tuple(part.shards[Split.HELD_OUT]),
        }
    )
    made.save(part.folder)
    return made, sum(entry.num_samples for entry in made.held_out)


def _described(number: int, made: tuple[DataManifest, int], examples: tuple[str, ...]) -> Cohort:
    manifest, held_out = made
    return Cohort(
        name=f"cohort-{number + 1}",
        digest=manifest.digest,
        train_images=manifest.num_train_images,
        held_out_images=held_out,
        examples=examples,
    )


def _nearest(
    clusters: Clusters, number: int, points_NF: Floats, labels_N: Labels, captions: Sequence[str]
) -> tuple[str, ...]:
    """Captions of the samples nearest to the centre of a cohort, each once."""
    own = np.flatnonzero(labels_N == number)
    order = np.argsort(np.square(points_NF[own] - clusters.centres_KF[number]).sum(axis=1), kind="stable")
    return tuple(Counter(captions[index] for index in own[order]))[:_EXAMPLES]


def _encoder(folder: Path | None) -> Encoder | None:
    if folder is None:
        return None
    from diffusion_at_home.evaluation.features import load_encoder  # noqa: PLC0415 -- captions need no torch

    return load_encoder(folder)


def _num_samples(manifest: DataManifest) -> int:
    return sum(entry.num_samples for entry in (*manifest.train, *manifest.held_out))
