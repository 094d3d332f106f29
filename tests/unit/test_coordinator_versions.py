"""From a round's contributions to the next version, and how anybody gets there."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

from coordinator.blobs import BlobStore
from coordinator.records import Contribution, LeaseId, Version
from coordinator.versions import KEPT_SNAPSHOTS, Versions, first_version
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
        self.blobs = BlobStore(folder / "blobs", folder / "staging")
        model = tiny_model(CONFIG)
        self.layout = Layout.of(model)
        initial = RunState.initial(CONFIG, self.layout.flatten(model))
        history = [first_version(initial, layout=self.layout, blobs=self.blobs, folder=folder / "state")]
        self.versions = self.opened(history)

    def opened(self, history: list[Version], *, lie: int = 0) -> Versions:
        """`lie`: contributions are told to be those of so many versions later."""
        return Versions(
            config=CONFIG,
            layout=self.layout,
            blobs=self.blobs,
            folder=self.folder / "state",
            history=history,
            contributions_of=lambda number: self.contributions(number + lie),
        )

    def contributions(self, number: int) -> list[Contribution]:
        """Two, the same for the same round on every press."""
        generator = torch.Generator().manual_seed(number)
        return [self._contribution(number, part, 0.01 * torch.randn(self.size, generator=generator)) for part in (0, 1)]

    @property
    def size(self) -> int:
        return self.layout.num_elements

    def _contribution(self, number: int, part: int, delta: torch.Tensor) -> Contribution:
        buffer = io.BytesIO()
        write_vector(buffer, Codec.FP32, self.size, encode_chunks(Codec.FP32, delta))
        sha256 = self.blobs.add_bytes(buffer.getvalue())
        first = ShardRange(epoch=0, shard=part, start=0, count=16)
        worker = WorkerId("a" * 16)
        return Contribution(part, LeaseId(part), worker, number, first, sha256, 1, 16, 16.0 - part, 0.5, 1, 1)

    def publish(self, count: int = 1) -> None:
        for _ in range(count):
            contributions = self.contributions(self.versions.newest.version + 1)
            self.versions.published(self.versions.make(contributions), contributions)
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
    lost = press.versions.make(press.contributions(2))
    press.versions = press.opened(press.versions.history)
    assert bits(press.versions.make(press.contributions(2))) == bits(lost)


@pytest.mark.parametrize("saved_at", [0, 2, 4])
def test_versions_after_the_last_saved_state_are_made_again_at_the_next_start(press: Press, saved_at: int) -> None:
    for _ in range(4):
        press.publish()
        if press.versions.newest.version == saved_at:
            press.versions.save()
    expected = press.versions.make(press.contributions(5))
    again = press.opened(press.versions.history)
    assert [path.name for path in (press.folder / "state").iterdir()] == [f"state-{saved_at}.safetensors"]
    assert bits(again.make(press.contributions(5))) == bits(expected)


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
        press.versions.make(press.contributions(1))
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


def test_state_that_is_not_the_published_version_is_refused(press: Press) -> None:
    press.publish()
    press.versions.save()
    state = RunState.load(press.versions.state_file)
    state.published[0] += 1
    state.save(press.versions.state_file)
    with pytest.raises(IntegrityError, match="is not the published version 1"):
        press.opened(press.versions.history)


def test_run_without_any_snapshot_is_refused(press: Press) -> None:
    press.blobs.remove(press.versions.newest.snapshot_sha256)
    with pytest.raises(IntegrityError, match="no snapshot"):
        press.opened(press.versions.history)


def test_run_without_any_state_is_refused(press: Press) -> None:
    press.versions.state_file.unlink()
    with pytest.raises(IntegrityError, match="no state"):
        press.opened(press.versions.history)


def test_two_snapshots_of_the_same_bits_are_one_blob_that_stays(press: Press) -> None:
    history = press.versions.history
    name = history[0].snapshot_sha256
    same = [Version(n, n, history[0].weights_digest, name, 1, name, history[0].snapshot_bytes, 1) for n in (1, 2, 3)]
    for version in same:
        press.versions.published(version, [])
        press.versions.snapshot_stored(version)
    assert press.blobs.path(name) is not None
