"""Plans of the shipped large runs: the figures that a 6 GB card depends on. `scripts/bench.py memory` measures all plans."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.config.toml import load_toml
from diffusion_at_home.errors import HardwareError
from diffusion_at_home.model.text import placeholder_tokenizer
from tests.integration.command_line import dah
from tests.unit.tiny_families import FAMILIES, PIXELS, family_overrides
from tests.unit.tiny_run import REPOSITORY, tiny_config, tiny_tokenizer
from worker.memory.choice import GIB, Machine
from worker.memory.measure import Need, measure
from worker.memory.planning import WorkPlan
from worker.step.masters import WeightKind
from worker.step.plan import Offload, StepPlan

SMALL = StepPlan(WeightKind.STOCHASTIC, checkpointing=True, release=True)


@cache
def need(name: str, plan: StepPlan, *overrides: str) -> Need:
    config = load_toml(REPOSITORY / "configs" / f"{name}.toml", RunConfig, overrides)
    return measure(config, placeholder_tokenizer(config.model.text), plan, autocast=True)


@pytest.mark.slow
def test_sd_unet_has_the_shape_it_is_named_after() -> None:
    found = need("sd-unet", SMALL)
    assert found.num_parameters == 859_520_964 + 123_060_480  # the U-Net's and the text encoder's in the original


@pytest.mark.slow
def test_860_million_parameters_train_within_4_gib_with_weights_that_keep_quality() -> None:
    assert need("sd-unet", SMALL).device_bytes <= 4.0 * GIB


def work_plan(config: RunConfig, gib: int, folder: Path) -> WorkPlan:
    machine = Machine(gib * GIB, gib * GIB, is_gpu=False, bf16=False)
    return WorkPlan(config, tiny_tokenizer(config), machine, folder)


def test_a_run_that_fits_nowhere_is_refused_with_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(HardwareError, match=r"does not fit 1\.0 GiB of memory: it needs at least"):
        _ = work_plan(tiny_config(), 1, tmp_path).step


def test_a_plan_is_made_once_for_a_run_and_a_machine(tmp_path: Path) -> None:
    assert work_plan(tiny_config(), 8, tmp_path).step == StepPlan()
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text().replace('"release": false', '"release": true'))
    assert work_plan(tiny_config(), 8, tmp_path).step.release  # read, not made again
    path.write_text("rubbish")
    assert work_plan(tiny_config(), 8, tmp_path).step == StepPlan()


def test_what_ran_out_of_memory_is_tried_with_smaller_micro_batches_and_then_never_again(tmp_path: Path) -> None:
    config = tiny_config("inner.clip='tensor'", "inner.batch_images=3")
    plan = work_plan(config, 8, tmp_path)
    for smaller in (2, 1):
        plan.fall(plan.step)
        assert plan.step == StepPlan(micro_batch_images=smaller)
    plan.fall(plan.step)
    assert plan.step == StepPlan(release=True)
    again = work_plan(config, 8, tmp_path)
    assert again.step == StepPlan(release=True)
    again.fall(again.step)
    assert again.step == StepPlan(release=True, checkpointing=True)
    again.fall(again.step)
    with pytest.raises(HardwareError, match="does not fit"):
        _ = again.step


@pytest.mark.slow
def test_plan_for_several_devices_divides_the_model() -> None:
    config = load_toml(REPOSITORY / "configs" / "prx-350m.toml", RunConfig)
    plan = StepPlan(WeightKind.SPLIT, checkpointing=True, release=True)
    one, two = (
        measure(config, placeholder_tokenizer(config.model.text), replace(plan, devices=n), autocast=True)
        for n in (1, 2)
    )
    assert two.weights_bytes == pytest.approx(one.weights_bytes / 2, rel=0.01)
    assert two.optimizer_bytes == pytest.approx(one.optimizer_bytes / 2, rel=0.01)
    # Besides its half, a device holds a block that it computes with and the next one.
    assert two.device_bytes < 0.6 * one.device_bytes


@pytest.mark.slow
def test_with_blocks_on_the_host_860_million_parameters_train_within_2_gib() -> None:
    plan = StepPlan(WeightKind.STOCHASTIC, checkpointing=True, release=True, offload=Offload.BLOCKS)
    assert need("sd-unet", plan).device_bytes <= 2.0 * GIB


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bucket_of_the_same_area_needs_no_more_memory_than_the_square(family: str) -> None:
    overrides = (*family_overrides(family, Path("no autoencoder")), "inner.batch_images=2")
    config = tiny_config(*overrides, "model.image_size=16" if family == PIXELS else "model.image_size=128")
    channels, side, _ = config.model.sample_shape
    assert side == 16
    square, wide, tall = (
        measure(config, tiny_tokenizer(config), StepPlan(), autocast=True, shape=(channels, *size)).device_bytes
        for size in ((16, 16), (8, 32), (20, 12))
    )
    assert max(wide, tall) <= 1.03 * square


def test_plan_answers_as_json_and_as_a_table() -> None:
    arguments = ["worker", "plan", "--config", REPOSITORY / "configs/digits.toml", "--vram", "6GiB"]
    answered = dah(*arguments, "--json").result
    assert answered["chosen"]["fits"]
    assert answered["chosen"]["peak_gib"] < 1
    assert 5e-5 < answered["chosen"]["tflop_per_image"] < 5e-4
    assert [rung["plan"] for rung in answered["rungs"]] == ["fp32"]
    shown = dah(*arguments).out
    assert "digits on a GPU of 6.0 GiB" in shown
    assert "chosen" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--config", "configs/digits.toml", "--vram", "six"], 3, "--vram 'six' is not a size: give one like 6GiB"),
        ([], 3, "name a run's address or, with --config, its config file"),
        (["http://127.0.0.1:9"], 5, "nobody answers at http://127.0.0.1:9"),
    ],
)
def test_what_cannot_be_planned_is_said_in_one_sentence(arguments: list[str], code: int, said: str) -> None:
    assert said in dah("worker", "plan", *arguments, cwd=REPOSITORY).refuses(code)


def test_tensors_whose_sizes_overflow_fit_nowhere(tmp_path: Path) -> None:
    config = tiny_config(f"round.images={2**40}", f"inner.batch_images={2**20}", f"model.image_size={2**20}")
    machine = Machine(8 * GIB, 16 * GIB, is_gpu=False, bf16=False, devices=1)
    with pytest.raises(HardwareError, match="no machine holds"):
        WorkPlan(config, tiny_tokenizer(config), machine, tmp_path)
