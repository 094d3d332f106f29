"""Each rule against the optimizer that others publish under its name, bit for bit, slice by slice."""

from __future__ import annotations

from collections.abc import Callable

import bitsandbytes as bnb
import pytest
import torch
from torch import Tensor, nn

from diffusion_at_home.config.run import InnerSection
from worker.step.masters import Fp32Master
from worker.step.muon import Muon, hidden_matrices
from worker.step.place import OnDevice, OnHost, StatePlace
from worker.step.rules import AdamW8bit, AdamW32, Codebooks, UpdateRule, adamw8bit
from worker.step.updates import TensorUpdate

SECTION = InnerSection(batch_images=1, weight_decay=0.1, beta1=0.8, beta2=0.97)
CPU = torch.device("cpu")
PLACE = OnDevice(CPU)
CODEBOOKS = Codebooks(CPU)
SHAPE = (96, 80)


def gradient(step: int) -> Tensor:
    return 10.0 ** (step % 3) * torch.randn(SHAPE, generator=torch.Generator().manual_seed(step))


def start() -> nn.Parameter:
    return nn.Parameter(torch.randn(SHAPE, generator=torch.Generator().manual_seed(99)))


def by_the_library(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> Tensor:
    parameter = start()
    optimizer = make([parameter])
    for step in range(5):
        parameter.grad = gradient(step)
        optimizer.step()
    return parameter.detach()


def by_the_rule(rule: UpdateRule, *, whole: bool = False) -> Tensor:
    parameter = start()
    update = TensorUpdate(parameter, Fp32Master(parameter.data, CPU), rule, whole)
    for step in range(5):
        parameter.grad = gradient(step)
        update.apply(PLACE, learning_rate=1e-2, step=step + 1, clip_norm=None)
    assert parameter.grad is None
    return parameter.detach()


def test_adamw_is_torchs() -> None:
    library = by_the_library(
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, betas=(0.8, 0.97), weight_decay=0.1, fused=True)
    )
    assert torch.equal(by_the_rule(AdamW32(SECTION, 96 * 80, PLACE)), library)


def test_adamw8bit_is_bitsandbytes() -> None:
    library = by_the_library(
        lambda parameters: bnb.optim.AdamW8bit(parameters, lr=1e-2, betas=(0.8, 0.97), weight_decay=0.1)
    )
    assert torch.equal(by_the_rule(AdamW8bit(SECTION, 96 * 80, PLACE, CODEBOOKS)), library)


def test_muon_is_torchs() -> None:
    library = by_the_library(
        lambda parameters: torch.optim.Muon(
            parameters, lr=1e-2, momentum=0.95, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
        )
    )
    assert torch.equal(by_the_rule(Muon(SECTION, torch.Size(SHAPE), PLACE), whole=True), library)


RULES: dict[str, Callable[[StatePlace], UpdateRule]] = {
    "adamw": lambda place: AdamW32(SECTION, 96 * 80, place),
    "adamw8bit": lambda place: AdamW8bit(SECTION, 96 * 80, place, CODEBOOKS),
}


@pytest.mark.parametrize("place", [OnDevice(CPU), OnHost(CPU)], ids=["on device", "on host"])
@pytest.mark.parametrize("kind", RULES)
def test_slices_give_the_same_bits_as_the_whole_wherever_the_state_lies(kind: str, place: StatePlace) -> None:
    whole, sliced = start().detach().flatten(), start().detach().flatten()
    one, other = RULES[kind](PLACE), RULES[kind](place)
    for step in range(4):
        g = gradient(step).flatten()
        one.apply(whole, g, one.state(slice(0, len(g))), learning_rate=1e-2, step=step + 1)
        for begin in range(0, 96 * 80, 512):
            part = slice(begin, begin + 512)
            with place.at_hand(other.state(part)) as state:
                other.apply(sliced[part], g[part], state, learning_rate=1e-2, step=step + 1)
    assert torch.equal(whole, sliced)


def test_eight_bit_state_takes_two_bytes_an_element_and_small_tensors_keep_all_bits() -> None:
    large, small = (adamw8bit(SECTION, count, PLACE, CODEBOOKS) for count in (65536, 100))
    assert sum(tensor.nbytes for tensor in large.state(slice(0, 65536))) == 2 * 65536 + 2 * 4 * 256
    assert {tensor.dtype for tensor in small.state(slice(0, 100))} == {torch.float32}


def test_muon_is_for_matrices_and_kernels_with_two_wide_sides_and_not_for_tables() -> None:
    wide, kernel = nn.Linear(32, 64, bias=False), nn.Conv2d(32, 64, 3)
    others = [nn.Linear(64, 4), nn.Linear(4, 64), nn.LayerNorm(64), nn.Embedding(100, 64)]
    assert hidden_matrices(nn.ModuleList([wide, kernel, *others])) == {wide.weight, kernel.weight}
