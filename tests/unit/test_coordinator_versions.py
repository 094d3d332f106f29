"""From a round's contributions to the next version, and how anybody gets there."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from coordinator.blobs import BlobStore
from coordinator.records import Anchor, Contribution, Counted, LeaseId, Version
from coordinator.refused import Refused
from coordinator.states import KEPT_STATES, States
from coordinator.versions import KEPT_SNAPSHOTS, Loaded, Versions, first_version
from diffusion_at_home.config.run import Codec
from diffusion_at_home.data.order import ShardRange
from diffusion_at_home.errors import IntegrityError, StorageError
from diffusion_at_home.identity import WorkerId
from diffusion_at_home.outer.state import RunState
from diffusion_at_home.rpc.coordinator_pb2 import Blob
from diffusion_at_home.wire.layout import Layout
from diffusion_at_home.wire.vector import VectorReader, encode_chunks, write_vector
from tests.unit.tiny_run import tiny_config, tiny_model

CONFIG = tiny_config("codec.delta='fp32'")


class Press:
    """Makes versions in a folder, without a ledger file: the history is a list."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._contributions: dict[int, list[Contribution]] = {}
        self.blobs = BlobStore(folder / "blobs", folder / "staging")
        self.layout = Layout.of(tiny_model(CONFIG))
        history = [first_version(self.seed(), layout=self.layout, blobs=self.blobs, folder=folder / "state")]
        self.versions = self.opened(history)

    def seed(self) -> RunState:
        return RunState.initial(CONFIG, self.layout.flatten(tiny_model(CONFIG)))

    def opened(self, history: list[Version], *, lie: int = 0, anchor: Anchor | None = None) -> Versions:
        """`lie`: contributions are told to be those of so many versions later."""
        self.states = States(
            folder=self.folder / "state",
            exports=self.folder / "exports",
            damaged=self.folder / "damaged",
            anchor=anchor,
            seed=self.seed,
        )
        return Versions(
            config=CONFIG,
            layout=self.layout,
            blobs=self.blobs,
            states=self.states,
            history=history,
            counted_of=lambda number: self.counted(number + lie),
        )

    def contributions(self, number: int) -> list[Contribution]:
        """Two, the same for the same round on every press."""
        if number not in self._contributions:
            generator = torch.Generator().manual_seed(number)
            deltas = [0.01 * torch.randn(self.size, generator=generator) for _ in range(2)]
            self._contributions[number] = [self._contribution(number, part, delta) for part, delta in enumerate(deltas)]
        return self._contributions[number]

    def counted(self, number: int) -> list[Counted]:
        """The same as they count: the second one scaled."""
        return [Counted(c, c.weight, 1.0 - 0.25 * c.contribution_id) for c in self.contributions(number)]

    @property
    def size(self) -> int:
        return self.layout.num_elements

    def _contribution(self, number: int, part: int, delta: torch.Tensor) -> Contribution:
        buffer = io.BytesIO()
        write_vector(buffer, Codec.FP32, self.size, encode_chunks(Codec.FP32, delta))
        sha256 = self.blobs.add_bytes(buffer.getvalue())
        first = ShardRange(epoch=0, shard=part, start=0, count=16)
        worker = WorkerId("a" * 16)
        return Contribution(part, LeaseId(part), worker, number, first, sha256, 1, 16, 16.0 - part, 0.5, 1, 1, "")

    def publish(self, count: int = 1) -> None:
        for _ in range(count):
            counted = self.counted(self.versions.newest.version + 1)
            self.versions.published(self.versions.make(counted))
            with_snapshot = self.versions.settle()
            if with_snapshot is not None:
                self.versions.snapshot_stored(with_snapshot)

    def weights_after(self, steps: list[Blob], weights: torch.Tensor) -> torch.Tensor:
        """What a replica with `weights` holds after following `steps`."""
        weights = weights.clone()
        for step in steps:
            codec = Codec.FP32 if step.kind == Blob.KIND_SNAPSHOT else CONFIG.codec.update
            with self.blobs.open(step.sha256) as data:
                assert len(data) == step.size_bytes
                reader = VectorReader(data, codec, self.size)
                reader.copy_to(weights) if step.kind == Blob.KIND_SNAPSHOT else reader.add_to(weights)
        return weights


@pytest.fixture
def press(tmp_path: Path) -> Press:
    return Press(tmp_path)


def bits(version: Version) -> tuple[object, ...]:
    """All but the time."""
    return (version.weights_digest, version.update_sha256, version.update_bytes, version.images)


def test_same_contributions_make_the_same_bits_after_loading_from_disk(press: Press, tmp_path: Path) -> None:
    other = Press(tmp_path / "other")
    for _ in range(3):
        press.publish()
        other.publish()
        other.versions = other.opened(other.versions.history)
    assert [bits(v) for v in press.versions.history] == [bits(v) for v in other.versions.history]


def test_version_whose_row_never_reached_the_ledger_is_made_again_to_the_same_bits(press: Press) -> None:
    press.publish()
    lost = press.versions.make(press.counted(2))
    press.versions = press.opened(press.versions.history)
    assert bits(press.versions.make(press.counted(2))) == bits(lost)


@pytest.mark.parametrize("saved_at", [0, 2, 4])
def test_versions_after_the_last_saved_state_are_made_again_at_the_next_start(press: Press, saved_at: int) -> None:
    for _ in range(4):
        press.publish()
        if press.versions.newest.version == saved_at:
            press.versions.save()
    expected = press.versions.make(press.counted(5))
    again = press.opened(press.versions.history)
    assert again.loaded == Loaded(f"state-{saved_at}.safetensors", 4 - saved_at, ())
    assert bits(again.make(press.counted(5))) == bits(expected)


def test_contributions_that_make_another_version_are_refused(press: Press) -> None:
    press.publish(2)
    with pytest.raises(IntegrityError, match="do not make the published version 1"):
        press.opened(press.versions.history, lie=1)


def test_full_disk_leaves_everything_as_it_was(press: Press, tmp_path: Path) -> None:
    undisturbed = Press(tmp_path / "other")
    undisturbed.publish()
    obstacle = press.folder / "staging" / "update-1"
    obstacle.symlink_to("/dev/full")
    with pytest.raises(StorageError):
        press.versions.make(press.counted(1))
    obstacle.unlink()
    press.publish()
    assert bits(press.versions.newest) == bits(undisturbed.versions.newest)


def test_way_to_the_newest_ends_in_its_bits_wherever_it_starts(press: Press) -> None:
    held = {0: press.weights_after(press.versions.catch_up(None), torch.zeros(press.size))}
    for number in range(1, 7):
        press.publish()
        held[number] = press.weights_after(press.versions.catch_up(number - 1), held[number - 1])
    for number, weights in held.items():
        arrived = press.weights_after(press.versions.catch_up(number), weights)
        assert press.layout.weights_digest(arrived) == press.versions.newest.weights_digest
    arrived = press.weights_after(press.versions.catch_up(None), torch.zeros(press.size))
    assert press.layout.weights_digest(arrived) == press.versions.newest.weights_digest


def test_way_is_the_one_of_fewest_bytes(press: Press) -> None:
    press.publish(6)
    assert press.versions.catch_up(6) == []
    assert [blob.kind for blob in press.versions.catch_up(5)] == [Blob.KIND_UPDATE]
    far = press.versions.catch_up(0)
    assert far == press.versions.catch_up(None)
    assert far[0].kind == Blob.KIND_SNAPSHOT
    updates = sum(version.update_bytes for version in press.versions.history[1:])
    assert sum(blob.size_bytes for blob in far) < updates


def test_version_from_the_future_starts_from_a_snapshot(press: Press) -> None:
    press.publish()
    assert press.versions.catch_up(99) == press.versions.catch_up(None)


def test_nobody_downloads_more_than_two_snapshots_worth(press: Press) -> None:
    press.publish(12)
    whole = press.versions.history[0].snapshot_bytes
    assert sum(blob.size_bytes for blob in press.versions.catch_up(None)) <= 2 * whole


def test_only_the_newest_snapshots_stay_also_after_a_restart(press: Press) -> None:
    press.publish(12)
    named = [version.snapshot_sha256 for version in press.versions.history if version.snapshot_sha256]
    assert len(named) > KEPT_SNAPSHOTS
    press.versions = press.opened(press.versions.history)
    assert [name for name in named if press.blobs.path(name)] == named[-KEPT_SNAPSHOTS:]


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "flipped at its end": flip,
    "flipped in its middle": lambda path: flip(path, path.stat().st_size // 2),
    "flipped in its header": lambda path: flip(path, 40),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": Path.unlink,
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("older", [True, False], ids=["one older state", "no state but that"])
def test_damaged_state_is_made_again_from_what_is_left_to_the_same_bits(press: Press, how: str, older: bool) -> None:
    press.publish(2)
    if older:
        press.versions.save()
    press.publish(2)
    press.versions.save()
    if not older:
        press.states.file(0).unlink()
    expected = press.versions.make(press.counted(5))
    DAMAGE[how](press.states.file(4))
    again = press.opened(press.versions.history)
    assert again.loaded.source == ("state-2.safetensors" if older else "the seed")
    assert again.loaded.stepped_again == (2 if older else 4)
    assert len(again.loaded.damaged) == (how != "missing")
    assert bits(again.make(press.counted(5))) == bits(expected)
    if how != "missing":
        assert [path.name for path in (press.folder / "damaged").iterdir()] == ["state-4.safetensors"]
        third = press.opened(press.versions.history)
        assert third.loaded == Loaded("state-4.safetensors", 0, ())


def test_state_that_is_sound_and_not_the_published_version_is_not_used(press: Press) -> None:
    press.publish()
    press.versions.save()
    state = RunState.load(press.versions.state_file)
    state.published[0] += 1
    state.save(press.versions.state_file)
    again = press.opened(press.versions.history)
    assert (again.loaded.source, again.loaded.stepped_again) == ("state-0.safetensors", 1)
    assert "is not the published version 1" in again.loaded.damaged[0]


def test_damaged_state_and_a_damaged_contribution_are_refused_with_both_named(press: Press) -> None:
    press.publish(2)
    press.versions.save()
    flip(press.states.file(2))
    blob = press.blobs.path(press.contributions(1)[0].sha256)
    assert blob is not None
    flip(blob)
    with pytest.raises(IntegrityError, match=rf"{blob.name} is damaged in .* backup \(needed since .*state-2.*digest"):
        press.opened(press.versions.history)
    assert press.states.file(2).is_file()


def test_run_without_any_state_is_stepped_from_the_seed(press: Press) -> None:
    press.publish(3)
    expected = press.versions.make(press.counted(4))
    press.versions.state_file.unlink()
    again = press.opened(press.versions.history)
    assert (again.loaded.source, again.loaded.stepped_again) == ("the seed", 3)
    assert again.state_file.name == "state-3.safetensors"
    assert bits(again.make(press.counted(4))) == bits(expected)


def test_half_stepped_state_is_never_stepped_on(press: Press, tmp_path: Path) -> None:
    """The disk takes nothing, and the state cannot even be loaded again."""
    undisturbed = Press(tmp_path / "other")
    undisturbed.publish(3)
    press.publish(2)
    obstacle = press.folder / "staging" / "update-3"
    obstacle.symlink_to("/dev/full")
    needed = press.blobs.folder / press.contributions(1)[0].sha256
    with pytest.raises(StorageError):
        press.versions.make(press.counted(3))
    needed.rename(press.folder / "hidden")
    with pytest.raises(IntegrityError, match="missing"):
        press.versions.make(press.counted(3))
    (press.folder / "hidden").rename(needed)
    obstacle.unlink()
    press.publish()
    assert bits(press.versions.newest) == bits(undisturbed.versions.newest)


def test_only_the_last_states_stay(press: Press) -> None:
    for _ in range(KEPT_STATES + 2):
        press.publish()
        press.versions.save()
    newest = press.versions.newest.version
    assert press.states.saved() == list(range(newest - KEPT_STATES + 1, newest + 1))


def test_run_goes_on_from_its_anchor_when_nothing_before_it_is_left(press: Press) -> None:
    for _ in range(3):
        press.publish()
        press.versions.save()
    anchor = press.states.make_anchor(2)
    press.states.anchor_stored(anchor)
    assert press.states.saved() == [3]
    press.publish()
    expected = press.versions.make(press.counted(5))
    for number in (1, 2):
        for contribution in press.contributions(number):
            press.blobs.remove(contribution.sha256)
    flip(press.states.file(3))
    again = press.opened(press.versions.history, anchor=anchor)
    assert (again.loaded.source, again.loaded.stepped_again) == ("anchor-2.safetensors", 2)
    assert bits(again.make(press.counted(5))) == bits(expected)


def test_damaged_state_never_becomes_the_anchor(press: Press) -> None:
    for _ in range(2):
        press.publish()
        press.versions.save()
    flip(press.states.file(1))
    with pytest.raises(IntegrityError, match="does not have the digest it was saved with"):
        press.states.make_anchor(1)


def test_what_a_dying_process_left_among_the_states_goes(press: Press) -> None:
    for name in ("state-7.tmp", "anchor-0.safetensors", ".tmp123"):
        (press.folder / "state" / name).write_bytes(b"half")
    assert press.states.sweep() == [".tmp123", "anchor-0.safetensors", "state-7.tmp"]
    assert press.states.saved() == [0]


def test_update_that_is_gone_is_never_named(press: Press) -> None:
    press.publish(10)
    base = press.versions.snapshots[-1]
    assert 2 < base < 10
    press.versions.forget_updates(base)
    for held in range(base):
        assert press.versions.catch_up(held) == press.versions.catch_up(None)
    assert [blob.kind for blob in press.versions.catch_up(base)] == [Blob.KIND_UPDATE] * (10 - base)


def test_damaged_snapshot_is_gone_round_by_way_of_the_older_one(press: Press) -> None:
    press.publish(12)
    older, newest = press.versions.snapshots
    press.versions.lost(press.versions.history[newest].snapshot_sha256)
    way = press.versions.catch_up(None)
    assert [blob.version for blob in way] == [older, *range(older + 1, 13)]
    weights = press.weights_after(way, torch.zeros(press.size))
    assert press.layout.weights_digest(weights) == press.versions.newest.weights_digest


def test_without_a_way_joiners_wait_for_the_snapshot_that_is_written_next(press: Press) -> None:
    press.publish(12)
    for sha256 in (v.snapshot_sha256 for v in press.versions.history if v.snapshot_sha256):
        press.blobs.remove(sha256)
        press.versions.lost(sha256)
    assert not press.versions.can_be_joined()
    with pytest.raises(Refused, match="come back soon"):
        press.versions.catch_up(None)
    with_snapshot = press.versions.settle()
    assert with_snapshot is not None
    press.versions.snapshot_stored(with_snapshot)
    weights = press.weights_after(press.versions.catch_up(None), torch.zeros(press.size))
    assert press.layout.weights_digest(weights) == press.versions.newest.weights_digest


def test_two_snapshots_of_the_same_bits_are_one_blob_that_stays(press: Press) -> None:
    history = press.versions.history
    name = history[0].snapshot_sha256
    same = [Version(n, n, history[0].weights_digest, name, 1, name, history[0].snapshot_bytes, 1) for n in (1, 2, 3)]
    for version in same:
        press.versions.published(version)
        press.versions.snapshot_stored(version)
    assert press.blobs.path(name) is not None
