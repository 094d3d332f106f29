"""A sound machine passes the self-test in every precision; one that computes wrongly is refused with what differs."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffusion_at_home.errors import HardwareError
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.model.objective import flow_loss
from diffusion_at_home.wire.layout import Layout
from tests.unit.tiny_run import REPOSITORY
from worker.selftest.check import require_sound, self_test
from worker.selftest.figures import FIGURES, KNOWN_ANSWER, Figure, figures_of, read_known_answer
from worker.selftest.trials import LEARNING_RATE, Trial, spread, trials
from worker.step.compute import CPU, Compute
from worker.step.one_device import OneDevice
from worker.step.place import OnDevice
from worker.step.rules import Codebooks, adamw8bit

BF16 = Compute(torch.device("cpu"), autocast=True)
Fault = Callable[[DiffusionModel], None]


def naive_figures(trial: Trial) -> list[Figure]:
    """The trial without our trainer: networks in binary64, updates of fp32 weights, which is what the rules take."""
    config, network = trial.config, trial.build()
    layout = Layout.of(network)
    base, network = trial.base(layout), network.double().train()
    exact, gradients, losses = base.clone(), torch.zeros(layout.num_elements, dtype=torch.float64), []
    place, codebooks = OnDevice(torch.device("cpu")), Codebooks(torch.device("cpu"))
    rules = [adamw8bit(config.inner, slot.num_elements, place, codebooks) for slot in layout.slots]
    parameters = dict(network.named_parameters())
    for step in range(trial.steps):
        layout.load(network, exact)
        drawn = trial.batch(step)
        tokens = network.tokenize(drawn.captions)
        inputs = (drawn.x_BCHW.double(), tokens, drawn.t_B.double(), drawn.eps_BCHW.double())
        loss = flow_loss(network, *inputs, config.objective).mean()
        loss.backward()
        losses.append(float(loss.detach()))
        for slot, gradient in zip(layout.slots, layout.views(gradients), strict=True):
            given = parameters[slot.name].grad
            assert given is not None
            gradient.copy_(given)
        network.zero_grad()
        if trial.gradient:
            return figures_of(trial, layout, losses, gradients)
        clipped = (gradients * min(1.0, config.inner.clip_norm / float(gradients.norm()))).float()
        for rule, slot in zip(rules, layout.slots, strict=True):
            part, whole = slice(slot.offset, slot.offset + slot.num_elements), slice(0, slot.num_elements)
            rule.apply(exact[part], clipped[part], rule.state(whole), learning_rate=LEARNING_RATE, step=step + 1)
    return figures_of(trial, layout, losses, base - exact)


@pytest.fixture(scope="module")
def naive() -> list[Figure]:
    return [figure for trial in trials() for figure in naive_figures(trial)]


def test_known_answer_is_what_binary64_gives(naive: list[Figure], request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--rewrite-goldens"):
        KNOWN_ANSWER.write_bytes(FIGURES.dump_json(naive, indent=1) + b"\n")
    known = read_known_answer()
    assert [(figure.name, figure.kind) for figure in known] == [(figure.name, figure.kind) for figure in naive]
    for ours, theirs in zip(known, naive, strict=True):
        assert ours.value == pytest.approx(theirs.value, abs=1e-5 * theirs.size), ours.name
        assert ours.size == pytest.approx(theirs.size, rel=1e-5), ours.name


@pytest.mark.parametrize("compute", [CPU, BF16], ids=["fp32", "bf16"])
def test_a_sound_machine_passes_in_every_precision_that_it_may_be_asked_for(compute: Compute) -> None:
    tested = require_sound(compute)
    ways = {"fp32"} if compute is CPU else {"fp32", "bf16", "bf16 with split weights", "bf16 with stochastic weights"}
    assert {one.name.partition(" prx: ")[0] for one in tested.compared if " prx: " in one.name} == ways
    assert tested.worst.excess < 0.5, tested.worst  # other processors round otherwise


def test_a_self_test_leaves_the_process_as_it_was() -> None:
    torch.manual_seed(5)
    before = (torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled())
    require_sound(BF16)
    after = (torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled())
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_fixed_numbers_are_spread_evenly_and_never_change() -> None:
    numbers = spread(10_000, 1)
    assert [round(float(number), 6) for number in spread(3, 0)] == [-1.0, -0.183302, 0.633396]
    assert float(numbers.mean()) == pytest.approx(0, abs=0.02)
    assert float(numbers.square().mean()) == pytest.approx(1 / 3, abs=0.01)
    assert not torch.equal(numbers, spread(10_000, 2))


# -- faults: each changes what one module of a model computes ---------------------------------------------------------


def module_of(model: DiffusionModel, names: Sequence[str]) -> nn.Module:
    """The first of `names` that the model has."""
    modules = dict(model.named_modules())
    return next(modules[name] for name in names if name in modules)


MATRICES = ("transformer.blocks.0.gate_proj", "unet.down_blocks.0.resnets.0.conv1")
AFTER_ATTENTION = (
    "transformer.blocks.1.attention.to_out.0",
    "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0",
)


def one_row_off_by_a_percent(model: DiffusionModel) -> None:
    def scale(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        factors = torch.ones_like(output)
        factors.select(1 if output.ndim == 4 else -1, 5).fill_(1.01)
        return output * factors

    module_of(model, MATRICES).register_forward_hook(scale)


def one_head_zero(model: DiffusionModel, dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16)) -> None:
    def cut(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        kept = torch.ones_like(inputs[0])
        if inputs[0].dtype in dtypes:
            kept[..., : kept.shape[-1] // 4] = 0
        return (inputs[0] * kept,)

    module_of(model, AFTER_ATTENTION).register_forward_pre_hook(cut)


def exponent_bit_flipped(bit: int) -> Fault:
    """In one weight, after it was loaded."""

    def fault(model: DiffusionModel) -> None:
        flipped: list[bool] = []

        @torch.no_grad()
        def flip(module: Any, _inputs: object) -> None:
            if not flipped:
                weight = module.weight.view(-1)[17:18]
                weight.copy_((weight.float().view(torch.int32) ^ (1 << bit)).view(torch.float32))
                flipped.append(True)

        module_of(model, MATRICES).register_forward_pre_hook(flip)

    return fault


def not_a_number(model: DiffusionModel) -> None:
    def spoil(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return torch.where(torch.arange(output.numel()).view(output.shape) == 3, torch.nan, output)

    module_of(model, AFTER_ATTENTION).register_forward_hook(spoil)


FAULTS: dict[str, Fault] = {
    "row": one_row_off_by_a_percent,
    "head": one_head_zero,
    "lowest exponent bit": exponent_bit_flipped(23),
    "highest exponent bit": exponent_bit_flipped(30),
    "nan": not_a_number,
}


def faulty(fault: Fault, trial_name: str) -> Callable[[Trial], DiffusionModel]:
    """A machine that computes one trial wrongly."""

    def build(trial: Trial) -> DiffusionModel:
        model = trial.build()
        if trial.name == trial_name:
            fault(model)
        return model

    return build


@pytest.mark.parametrize("trial_name", ["prx", "unet"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_machine_that_computes_wrongly_is_refused(fault: Fault, trial_name: str) -> None:
    with pytest.raises(HardwareError, match=f"this processor computes wrongly: fp32 {trial_name}: "):
        require_sound(CPU, build=faulty(fault, trial_name))


def test_what_breaks_in_bf16_alone_is_found_there() -> None:
    build = faulty(lambda model: one_head_zero(model, (torch.bfloat16,)), "prx")
    wrong = [one.name for one in self_test(BF16, build=build).compared if not one.fine]
    assert any(name.startswith("bf16 prx: ") for name in wrong)
    assert any(name.startswith("bf16 with split weights prx: ") for name in wrong)
    assert not any(name.startswith("fp32 ") for name in wrong)


def test_training_itself_would_not_notice_a_wrong_row() -> None:
    trial = trials()[2]
    layout = Layout.of(trial.build())
    model = trial.build()
    one_row_off_by_a_percent(model)
    stepper = OneDevice(trial.config, model, layout, CPU)
    stepper.start(trial.base(layout), 0, LEARNING_RATE)
    losses = [stepper.step(trial.batch(0)) for _ in range(3)]
    assert losses[2] < 0.8 * losses[1] < 0.8 * losses[0]


def test_an_optimizer_that_takes_wrong_steps_is_refused() -> None:
    """The answer of a trial that took smaller steps stands for it."""
    known = [
        replace(figure, value=0.95 * figure.value) if " change of " in figure.name else figure
        for figure in read_known_answer()
    ]
    with pytest.raises(HardwareError, match="prx with adamw8bit: length of the change of"):
        require_sound(CPU, known=known)


def test_the_sentence_names_what_differs_the_most_and_what_to_do() -> None:
    known = read_known_answer()
    place = next(place for place, figure in enumerate(known) if figure.name == "prx with adamw8bit: loss of step 2")
    wrong = [replace(f, value=2 * f.value) if at == place else f for at, f in enumerate(known)]
    with pytest.raises(HardwareError) as refused:
        require_sound(CPU, known=wrong)
    assert re.fullmatch(
        r"this processor computes wrongly: fp32 prx with adamw8bit: loss of step 2 is [\d.]+, not [\d.]+: "
        r"lower its clocks, check its memory, and do not train with it",
        str(refused.value),
    )


def test_the_known_answer_is_part_of_the_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert f"*{KNOWN_ANSWER.suffix}" in project["tool"]["setuptools"]["package-data"]["*"]
