"""Points are cut into even clusters, and a data set into one for each, with every sample in exactly one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffusion_at_home.cohorts.captions import caption_points
from diffusion_at_home.cohorts.clusters import Floats, cluster, size_ratio
from diffusion_at_home.cohorts.cut import CutPlan, cut
from diffusion_at_home.cohorts.description import ASSIGNMENT_NAME, Cohorts
from diffusion_at_home.data.manifest import DataManifest, verify
from diffusion_at_home.data.shards import Sample, read_shard
from diffusion_at_home.errors import ConfigError, DataError
from tests.unit.tiny_data import build_tiny_data
from tests.unit.tiny_glyphs import build_glyphs


def uneven_points() -> Floats:
    """Four heaps, the first with most of the points."""
    generator = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])
    return np.concatenate(
        [
            centre + generator.normal(size=(count, 2))
            for centre, count in zip(centres, (700, 100, 100, 100), strict=True)
        ]
    )


def all_samples(folder: Path) -> list[Sample]:
    manifest = DataManifest.load(folder)
    return [one for entry in (*manifest.train, *manifest.held_out) for one in read_shard(folder / entry.name, entry)]


def test_clusters_are_even_although_the_points_are_not() -> None:
    points = uneven_points()
    found = cluster(points, 4, seed=0, most_ratio=1.1)
    labels = found.assign(points)
    assert size_ratio(labels, 4) <= 1.1
    again = cluster(points, 4, seed=0, most_ratio=1.1)
    assert np.array_equal(again.assign(points), labels)


def test_clusters_that_are_there_are_found() -> None:
    points = uneven_points()[600:]  # four heaps of a hundred
    labels = cluster(points, 4, seed=1, most_ratio=1.01).assign(points)
    heaps = [set(labels[start : start + 100].tolist()) for start in range(0, 400, 100)]
    assert [len(heap) for heap in heaps] == [1] * 4
    assert len(set.union(*heaps)) == 4


def test_equal_points_are_never_parted_and_what_that_rules_out_is_refused() -> None:
    points = np.repeat(np.eye(3), [50, 10, 10], axis=0)
    labels = cluster(points, 2, seed=0, most_ratio=3).assign(points)
    assert len(set(labels[:50].tolist())) == 1
    with pytest.raises(DataError, match=r"largest has 2.5 times the smallest.*--most-ratio"):
        cluster(points, 2, seed=0, most_ratio=1.5)
    with pytest.raises(DataError, match="at most 3 cohorts"):
        cluster(points, 4, seed=0, most_ratio=9)


def test_equal_captions_are_one_point_and_captions_without_words_are_refused() -> None:
    points = caption_points(["a red box", "a blue box", "a red box", "two green dots"], seed=0)
    assert np.array_equal(points[0], points[2])
    assert not np.array_equal(points[0], points[1])
    with pytest.raises(DataError, match="no words"):
        caption_points(["", "!"], seed=0)


def test_every_sample_of_a_data_set_is_in_exactly_one_cohort(tmp_path: Path) -> None:
    build_glyphs(tmp_path / "data")
    made = cut(CutPlan(tmp_path / "data", tmp_path / "cut", 3, most_ratio=1.5))
    assert made == Cohorts.load(tmp_path / "cut")
    assert made.size_ratio <= 1.5
    parts = list[Sample]()
    for cohort in made.cohorts:
        folder = tmp_path / "cut" / cohort.name
        manifest = DataManifest.load(folder)
        verify(folder, manifest)
        assert (manifest.digest, manifest.num_train_images) == (cohort.digest, cohort.train_images)
        parts += all_samples(folder)
    whole = all_samples(tmp_path / "data")
    assert sorted(parts, key=repr) == sorted(whole, key=repr)
    lines = (tmp_path / "cut" / ASSIGNMENT_NAME).read_text().splitlines()
    assert len(lines) == 1 + len(whole)


def test_the_same_cut_is_made_again_to_the_byte_and_nothing_is_overwritten(tmp_path: Path) -> None:
    build_glyphs(tmp_path / "data")
    plans = [CutPlan(tmp_path / "data", tmp_path / name, 3, most_ratio=1.5) for name in ("one", "two")]
    one, two = (cut(plan) for plan in plans)
    assert one == two
    with pytest.raises(ConfigError, match="exists: choose a new folder"):
        cut(plans[0])


def test_keys_that_come_again_in_another_shard_are_no_conflict(tmp_path: Path) -> None:
    build_tiny_data(tmp_path / "data")  # each of its shards counts its samples anew
    made = cut(CutPlan(tmp_path / "data", tmp_path / "cut", 2))
    assert [(cohort.train_images, cohort.held_out_images) for cohort in made.cohorts] == [(48, 4), (48, 4)]


def test_a_cohort_without_anything_held_out_is_refused(tmp_path: Path) -> None:
    manifest = build_tiny_data(tmp_path / "data")
    manifest.model_copy(update={"held_out": ()}).save(tmp_path / "data")
    with pytest.raises(DataError, match="cohort 1 would have no held-out sample"):
        cut(CutPlan(tmp_path / "data", tmp_path / "cut", 2))
    assert not (tmp_path / "cut").exists()
