"""Assembling is a function of the parts: duplicates go, each shard has one bucket, and something is always held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusion_at_home.data.assemble import Assembler
from diffusion_at_home.data.duplicates import HASH_BYTES, DuplicateIndex, PictureHash
from diffusion_at_home.data.manifest import ShardEntry, Size
from diffusion_at_home.data.parts import Facts, Ready, read_index, write_part
from diffusion_at_home.data.report import Report
from diffusion_at_home.data.shards import Sample, read_shard
from diffusion_at_home.data.sources.source import Reason, Refused
from diffusion_at_home.errors import DataError

HASH = PictureHash(bytes(range(HASH_BYTES)))


def ready(name: str, size: Size = (32, 32), hashed: PictureHash = HASH, held_out: bool | None = None) -> Ready:
    facts = Facts(name=name, captions=(name,), source="here", license="CC0-1.0")
    return Ready(facts, name.encode(), "png", size, hashed, held_out)


class Assembled:
    """Shards of parts, which are lists of outcomes."""

    def __init__(
        self,
        folder: Path,
        *parts: list[Ready | Refused],
        share: float = 0.0,
        bits: int = -1,
        samples: int = 100,
        size_bytes: int = 1000,
        mixed: int = 1,
    ) -> None:
        self.folder = folder
        assembler = Assembler(
            folder,
            folder,
            held_out_share=share,
            duplicates=DuplicateIndex(bits),
            shard_samples=samples,
            shard_bytes=size_bytes,
            mixed_shards=mixed,
        )
        with assembler:
            for number, part in enumerate(parts):
                write_part(folder, number, "unit", part)
                assembler.add(read_index(folder, number, "unit"))
            self.train, self.held_out = assembler.finish()
            self.report: Report = assembler.tally.report()
            self.shown = assembler.shown()

    def read(self, entries: tuple[ShardEntry, ...]) -> list[list[Sample]]:
        return [read_shard(self.folder / entry.name, entry) for entry in entries]

    def captions(self, entries: tuple[ShardEntry, ...]) -> list[list[str]]:
        return [[sample.caption for sample in shard] for shard in self.read(entries)]


def test_each_shard_has_one_bucket_and_the_order_of_the_source(tmp_path: Path) -> None:
    wide = (48, 16)
    made = Assembled(
        tmp_path, [ready("a"), ready("b", wide), ready("c")], [ready("d", wide), ready("e"), ready("f")], samples=2
    )
    assert made.captions(made.train) == [["a", "c"], ["b", "d"], ["e", "f"]]
    assert [entry.size for entry in made.train] == [(32, 32), wide, (32, 32)]
    assert [entry.name for entry in made.train] == [f"train-{n:05d}.tar" for n in range(3)]
    assert [(b.width, b.height, b.train) for b in made.report.buckets] == [(32, 32, 4), (48, 16, 2)]


def test_some_shards_worth_are_mixed_before_they_are_cut(tmp_path: Path) -> None:
    names = [f"{number:04d}" for number in range(250)]
    made = Assembled(tmp_path, [ready(name) for name in names], samples=50, size_bytes=10**6, mixed=4)
    shards = made.captions(made.train)
    assert [len(shard) for shard in shards] == [50] * 5
    assert sorted(name for shard in shards[:4] for name in shard) == names[:200]
    assert sorted(shards[4]) == names[200:]
    for shard in shards[:4]:
        assert all(5 <= sum(first <= int(name) < first + 50 for name in shard) <= 25 for first in range(0, 200, 50))


def test_a_shard_is_full_by_bytes_too(tmp_path: Path) -> None:
    made = Assembled(tmp_path, [ready(name) for name in ("aaa", "bbb", "ccc")], size_bytes=5)
    assert made.captions(made.train) == [["aaa", "bbb"], ["ccc"]]


def test_of_near_duplicates_the_first_stays_and_the_others_are_counted(tmp_path: Path) -> None:
    near = PictureHash(bytes([HASH[0] ^ 1]) + HASH[1:])
    far = PictureHash(bytes([HASH[0] ^ 0xFF]) + HASH[1:])
    made = Assembled(tmp_path, [ready("a"), ready("b", hashed=near)], [ready("c", hashed=far), ready("d")], bits=2)
    assert made.captions(made.train) == [["a", "c"]]
    refused = made.report.refused[Reason.DUPLICATE]
    assert (refused.count, [example.name for example in refused.examples]) == (2, ["b", "d"])


def test_the_source_decides_what_is_held_out_where_it_says(tmp_path: Path) -> None:
    made = Assembled(tmp_path, [ready("a", held_out=True), ready("b", held_out=False)], share=1.0)
    assert (made.captions(made.train), made.captions(made.held_out)) == ([["b"]], [["a"]])


def test_a_hash_of_the_name_decides_else_whatever_the_order(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(400)]
    splits = []
    for place, order in (("one", names), ("two", names[::-1])):
        (tmp_path / place).mkdir()
        made = Assembled(tmp_path / place, [ready(name) for name in order], share=0.25)
        splits.append({caption for shard in made.captions(made.held_out) for caption in shard})
    assert splits[0] == splits[1]
    assert 60 < len(splits[0]) < 140


@pytest.mark.parametrize("count", [2, 3, 50])
@pytest.mark.parametrize("samples", [2, 10])
def test_something_is_held_out_however_small_the_share(tmp_path: Path, count: int, samples: int) -> None:
    sizes = ((32, 32), (48, 16))
    made = Assembled(
        tmp_path, [ready(f"n{number}", sizes[number % 2]) for number in range(count)], share=1e-9, samples=samples
    )
    assert sum(entry.num_samples for entry in made.held_out) == 1
    assert sum(entry.num_samples for entry in made.train) == count - 1


def test_the_only_picture_is_trained_on(tmp_path: Path) -> None:
    made = Assembled(tmp_path, [ready("a")], share=1e-9)
    assert (made.captions(made.train), made.held_out) == ([["a"]], ())


def test_a_share_of_nothing_holds_nothing_out(tmp_path: Path) -> None:
    assert Assembled(tmp_path, [ready("a"), ready("b")]).held_out == ()


def test_nothing_left_to_train_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="every picture that is left is held out"):
        Assembled(tmp_path, [ready("a"), ready("b")], share=1.0)


def test_any_name_becomes_a_key_of_its_own(tmp_path: Path) -> None:
    names = ["a", "x/a", "x/a.jpg", "y/a.jpg", "ö", "-", "a.jpg", "a" * 90]
    first = Assembled(tmp_path, [ready(name) for name in names])
    keys = [sample.key for shard in first.read(first.train) for sample in shard]
    assert keys[0] == "a"
    assert len(set(keys)) == len(names)
    imitated = Assembled(tmp_path, [ready(name) for name in (*names, *keys[1:])])
    keys = [sample.key for shard in imitated.read(imitated.train) for sample in shard]
    assert len(set(keys)) == 2 * len(names) - 1


def test_what_was_refused_is_counted_with_a_few_names(tmp_path: Path) -> None:
    made = Assembled(tmp_path, [ready("a"), *(Refused(f"r{number}", Reason.BLANK, "white") for number in range(9))])
    refused = made.report.refused[Reason.BLANK]
    assert (refused.count, [example.name for example in refused.examples]) == (9, ["r0", "r1", "r2", "r3", "r4"])
    assert (made.report.pictures, made.report.train_images) == (10, 1)


def test_what_is_shown_is_spread_over_the_whole(tmp_path: Path) -> None:
    made = Assembled(tmp_path, *([ready(f"n{part}-{number}") for number in range(50)] for part in range(4)))
    parts = {sample.caption.partition("-")[0] for sample, _ in made.shown}
    assert (len(made.shown), parts) == (40, {"n0", "n1", "n2", "n3"})
