from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffusion_at_home.config.run import Codec, OuterKind, RunConfig
from diffusion_at_home.errors import IntegrityError
from diffusion_at_home.outer.aggregation import Weighed, WeightedMean
from diffusion_at_home.outer.state import RunState, load_weights
from diffusion_at_home.wire.codecs import chunk_codec
from diffusion_at_home.wire.vector import CHUNK_ELEMENTS, VectorReader, encode_chunks, write_vector
from tests.unit.tiny_run import same_bits, tiny_config

NUM_ELEMENTS = CHUNK_ELEMENTS + 300  # two chunks
CONFIG = tiny_config()


def noise(seed: int, scale: float = 1.0, num_elements: int = NUM_ELEMENTS) -> Tensor:
    return scale * torch.randn(num_elements, generator=torch.Generator().manual_seed(seed))


def mean(vector: Tensor) -> WeightedMean:
    """`vector` itself."""
    out = io.BytesIO()
    write_vector(out, Codec.FP32, len(vector), encode_chunks(Codec.FP32, vector))
    return WeightedMean([Weighed(VectorReader(memoryview(out.getvalue()), Codec.FP32, len(vector)), 1.0)])


def advance(config: RunConfig, state: RunState, delta: Tensor, images: int = 64) -> VectorReader:
    """One round; returns the update as replicas read it."""
    codec, out = config.codec.update, io.BytesIO()
    write_vector(out, codec, len(delta), state.advance(config, mean(delta), images))
    return VectorReader(memoryview(out.getvalue()), codec, len(delta))


def vectors(state: RunState) -> list[Tensor]:
    return [state.published, state.master, state.ema, *state.moments]


@pytest.mark.parametrize("codec", list(Codec))
def test_replica_that_adds_the_updates_equals_the_published_version_bit_for_bit(codec: Codec) -> None:
    config = tiny_config(f"codec.update='{codec}'")
    state = RunState.initial(config, noise(0))
    replica = noise(0)
    for version in range(1, 6):
        advance(config, state, noise(version, 1e-2)).add_to(replica)
        assert torch.equal(replica, state.published)
        assert (state.version, state.images) == (version, 64 * version)


def test_published_weights_do_not_drift_from_the_exact_ones() -> None:
    state = RunState.initial(CONFIG, noise(0))
    drift = []
    for version in range(1, 41):
        advance(CONFIG, state, noise(version, 1e-2))
        drift.append(float((state.master - state.published).norm()))
    assert max(drift[20:]) < 1.2 * max(drift[:20])
    assert drift[-1] < 0.02 * float((state.master - noise(0)).norm())


def test_without_error_feedback_the_published_weights_would_drift() -> None:
    state, codec = RunState.initial(CONFIG, noise(0)), chunk_codec(Codec.INT8)
    naive, drift = noise(0), []
    for version in range(1, 41):
        before = state.master.clone()
        advance(CONFIG, state, noise(version, 1e-2))
        for target, step in zip(chunks_of(naive), chunks_of(state.master - before), strict=True):
            target.add_(codec.decode(memoryview(codec.encode(step)), len(step)))
        drift.append(float((state.master - naive).norm()))
    assert drift[-1] > 3 * drift[2]
    assert drift[-1] > 3 * float((state.master - state.published).norm())


def chunks_of(vector: Tensor) -> tuple[Tensor, ...]:
    return torch.split(vector, CHUNK_ELEMENTS)


def test_average_follows_the_exact_weights_at_the_half_life() -> None:
    config = tiny_config("outer.optimizer='sgd'", "outer.learning_rate=1.0")
    state = RunState.initial(config, noise(0))
    advance(config, state, noise(1), images=100)  # one half-life
    assert torch.allclose(state.ema, noise(0) - noise(1) / 2, atol=1e-6)


def test_update_of_a_value_that_is_not_finite_is_not_written() -> None:
    state = RunState.initial(CONFIG, noise(0))
    delta = noise(1)
    delta[5] = torch.nan
    with pytest.raises(ValueError, match="int8 cannot hold"):
        advance(CONFIG, state, delta)


@pytest.mark.parametrize("kind", list(OuterKind))
def test_saved_state_comes_back_bit_for_bit_and_goes_on_alike(kind: OuterKind, tmp_path: Path) -> None:
    overrides = ["inner.optimizer='gradient'"] if kind is OuterKind.ADAMW else []
    config = tiny_config(f"outer.optimizer='{kind}'", *overrides)
    state = RunState.initial(config, noise(0))
    advance(config, state, noise(1))
    state.save(tmp_path / "state.safetensors")
    loaded = RunState.load(tmp_path / "state.safetensors")
    for _ in range(2):
        assert (loaded.version, loaded.images) == (state.version, state.images)
        assert same_bits(vectors(loaded), vectors(state))
        for each in (state, loaded):
            advance(config, each, noise(2))


def test_saving_again_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    state = RunState.initial(CONFIG, noise(0))
    state.save(tmp_path / "state.safetensors")
    advance(CONFIG, state, noise(1))
    state.save(tmp_path / "state.safetensors")
    assert RunState.load(tmp_path / "state.safetensors").version == 1
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


def test_what_was_loaded_is_what_was_checked_whatever_becomes_of_the_file(tmp_path: Path) -> None:
    """A disk that rots shows itself when pages of a file are read anew: what was checked must not lie in them."""
    path = tmp_path / "state.safetensors"
    state = RunState.initial(CONFIG, noise(0))
    state.save(path)
    loaded, weights = RunState.load(path), load_weights(path)
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    assert same_bits(vectors(loaded), vectors(state))
    assert same_bits(weights, (state.published, state.ema))


def test_truncated_missing_or_foreign_state_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    RunState.initial(CONFIG, noise(0, num_elements=50)).save(path)
    data = path.read_bytes()
    for wrong in (data[:-1], data[:20], b"", b"PK" + data, data + b"x"):
        path.write_bytes(wrong)
        with pytest.raises(IntegrityError, match=r"state\.safetensors is not a readable run state"):
            RunState.load(path)
    path.unlink()
    with pytest.raises(IntegrityError, match="restore it from a backup"):
        RunState.load(path)
