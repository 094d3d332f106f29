"""What encoding captions takes, and where it is done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from diffusion_at_home.errors import HardwareError
from diffusion_at_home.frozen_text import FrozenKind
from diffusion_at_home.model.build import build_model
from diffusion_at_home.model.frozen import FrozenEncoder, captions_at_once, config_json, with_sizes
from tests.unit.tiny_families import FAMILIES, PIXELS, UNET, save_autoencoder
from tests.unit.tiny_run import tiny_config
from tests.unit.tiny_text_encoder import frozen_overrides, save_text_encoder
from worker.memory.choice import GIB, Machine, Rung, encodes_on_device
from worker.memory.encoding import encoding_bytes
from worker.memory.measure import Need, measure
from worker.memory.tracker import Holds, MemoryTracker
from worker.step.plan import StepPlan


@pytest.mark.parametrize("kind", list(FrozenKind))
def test_captions_take_what_a_real_encoder_takes_for_them(tmp_path: Path, kind: FrozenKind) -> None:
    save_text_encoder(tmp_path / "encoder", kind)
    family = PIXELS if kind is FrozenKind.T5 else UNET
    model = tiny_config(*frozen_overrides(family, tmp_path / "encoder", tmp_path), "model.text.max_tokens=8").model
    section = with_sizes(model.text, kind)
    planned = encoding_bytes(model, config_json(section, kind))
    frozen = FrozenEncoder(section, kind, str)
    long = [f"{number} words that are more than eight" for number in range(captions_at_once(section))]
    weights = sum(parameter.nbytes for parameter in frozen.encoder.parameters())
    with MemoryTracker() as tracker:
        tracker.mark([*frozen.encoder.parameters(), *frozen.encoder.buffers()], Holds.WEIGHTS)
        list(frozen.rows(long))
    assert planned > weights
    assert planned == pytest.approx(tracker.peak_bytes, rel=0.25)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_counts_embeddings_and_no_encoder(tmp_path: Path, family: str) -> None:
    save_autoencoder(tmp_path / "autoencoder")
    frozen = tiny_config(*frozen_overrides(family, tmp_path / "nowhere", tmp_path / "autoencoder"))
    need = measure(frozen, b"", StepPlan(), autocast=False)
    model = build_model(frozen.model, frozen.objective, b"", seed=0)
    assert need.num_parameters == model.num_parameters
    assert need.weights_bytes >= 4 * model.num_parameters


NEED = Need(
    weights_bytes=GIB,
    gradients_bytes=GIB,
    optimizer_bytes=GIB,
    activations_bytes=GIB,
    offloaded_bytes=0,
    flops=1,
    num_parameters=1,
    residual_bytes=0,
)


def rung(device_gib: float, host_gib: float) -> Rung:
    return Rung(StepPlan(), NEED, int(device_gib * GIB), int(host_gib * GIB), 1.0, fits=True)


@pytest.mark.parametrize(("device_gib", "on_device"), [(6.25, True), (6.2, False)])
def test_captions_are_encoded_on_the_device_where_training_leaves_room(device_gib: float, on_device: bool) -> None:
    machine = Machine(int(device_gib * GIB), 16 * GIB, is_gpu=True, bf16=True)
    assert encodes_on_device(2 * GIB, rung(4, 4), machine, "tiny") is on_device


def test_without_a_gpu_they_are_encoded_where_gradients_and_activations_will_be() -> None:
    machine = Machine(8 * GIB, 8 * GIB, is_gpu=False, bf16=False)
    assert not encodes_on_device(3 * GIB, rung(4, 6), machine, "tiny")
    with pytest.raises(HardwareError, match=r"the run tiny does not fit 8\.0 GiB of memory: to encode its captions"):
        encodes_on_device(3 * GIB + 1, rung(4, 6), machine, "tiny")
    assert not encodes_on_device(3 * GIB + 1, replace(rung(4, 6), host_bytes=5 * GIB), machine, "tiny")


def test_an_encoder_that_does_not_pass_through_the_host_is_refused_with_what_would_do() -> None:
    machine = Machine(24 * GIB, 16 * GIB, is_gpu=True, bf16=True)
    with pytest.raises(HardwareError, match=r"which takes 18\.0 GiB .* at least a GPU of 24\.0 GiB and 23\.0 GiB"):
        encodes_on_device(18 * GIB, rung(4, 4), machine, "tiny")
