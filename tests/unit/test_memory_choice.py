"""The choice among plans, with needs that are made up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.config.toml import load_toml
from tests.unit.tiny_run import REPOSITORY, tiny_config
from worker.memory.choice import (
    CUDA_BYTES,
    CUDA_HOST_BYTES,
    GIB,
    PROCESS_BYTES,
    Machine,
    ladder,
    plan_memory,
    refusal,
    rung_of,
    table,
)
from worker.memory.measure import Need
from worker.memory.planning import this_machine
from worker.settings import WorkerSettings
from worker.step.compute import CPU
from worker.step.masters import WeightKind
from worker.step.plan import Offload, StepPlan

PARAMETERS = GIB // 8
"""Of a model whose base and delta take one GiB."""


def card(device_gib: float, host_gib: float = 64) -> Machine:
    return Machine(int(device_gib * GIB), int(host_gib * GIB), is_gpu=True, bf16=True)


def made_up(plan: StepPlan) -> Need:
    """Weights of 4 or 2 GiB, gradients of 4 unless released, state of 2, all divided by the devices; activations of 3 or 1."""
    away, shares = plan.offload, plan.devices
    weights = (2 if plan.weights is WeightKind.STOCHASTIC else 4) * GIB // shares
    state = 2 * GIB // shares
    return Need(
        weights_bytes=0 if away is Offload.BLOCKS else weights,
        gradients_bytes=0 if plan.release else 4 * GIB // shares,
        optimizer_bytes=0 if away is not Offload.NOTHING else state,
        activations_bytes=(1 if plan.checkpointing else 3) * GIB,
        offloaded_bytes={Offload.NOTHING: 0, Offload.STATE: state, Offload.BLOCKS: state + weights}[away],
        flops=4 * 10**12 if plan.checkpointing else 3 * 10**12,
        num_parameters=PARAMETERS,
        residual_bytes=0,
    )


def big() -> RunConfig:
    return tiny_config("inner.clip='tensor'", "inner.optimizer='adamw8bit'")


def fastest(config: RunConfig, machine: Machine) -> StepPlan:
    chosen = plan_memory(config, machine, made_up, try_all=False).chosen
    assert chosen is not None
    return chosen.plan


@pytest.mark.parametrize(
    ("device_gib", "chosen"),
    [
        (14.25, "fp32"),
        (14.2, "fp32, release"),
        (9, "fp32, recompute, release"),
        (6.25, "stochastic, recompute, release"),
        (5, "stochastic, recompute, release, offload state"),
        (3, "split, recompute, release, offload blocks"),
    ],
)
def test_the_fastest_that_fits_is_chosen(device_gib: float, chosen: str) -> None:
    plan = plan_memory(big(), card(device_gib), made_up, try_all=False)
    assert plan.chosen is not None
    assert str(plan.chosen.plan) == chosen
    assert plan.rungs[-1] is plan.chosen
    assert not any(rung.fits for rung in plan.rungs[:-1])


def test_asked_for_all_every_rung_is_measured_and_the_choice_is_the_same() -> None:
    everything, first = (plan_memory(big(), card(6), made_up, try_all=try_all) for try_all in (True, False))
    assert [rung.plan for rung in everything.rungs] == list(ladder(big(), card(6)))
    assert everything.chosen == first.chosen


def test_host_memory_counts_too() -> None:
    host_gib = (PROCESS_BYTES + CUDA_HOST_BYTES + GIB + GIB) / GIB  # the process, base and delta, the system
    enough = plan_memory(big(), card(14, host_gib), made_up, try_all=False)
    assert enough.chosen is not None
    assert plan_memory(big(), card(14, host_gib - 0.1), made_up, try_all=False).chosen is None


@pytest.mark.parametrize(("gradients_gib", "held_gib"), [(0, 4 + 2 + 0.5), (0.25, 4 + 2 + 0.5), (4, 4 + 2 + 4)])
def test_without_gpu_a_process_holds_its_delta_or_its_gradients(gradients_gib: float, held_gib: float) -> None:
    need = replace(made_up(StepPlan()), gradients_bytes=int(gradients_gib * GIB), activations_bytes=0)
    rung = rung_of(StepPlan(), need, Machine(64 * GIB, 64 * GIB, is_gpu=False, bf16=False), slowdown=1.0)
    assert rung.host_bytes == PROCESS_BYTES + GIB // 2 + int(held_gib * GIB)


def test_what_error_feedback_keeps_lies_on_the_host() -> None:
    need = made_up(StepPlan())
    without, with_it = (
        rung_of(StepPlan(), replace(need, residual_bytes=size), card(14), slowdown=1.0).host_bytes for size in (0, GIB)
    )
    assert with_it == without + GIB


def test_without_gpu_everything_lies_in_one_memory() -> None:
    needed = PROCESS_BYTES + GIB // 2 + (4 + 4 + 2 + 3) * GIB  # the delta comes when gradients have gone
    total = needed + GIB  # the system's
    machine = Machine(total, total, is_gpu=False, bf16=False)
    plan = plan_memory(big(), machine, made_up, try_all=False)
    assert plan.chosen is not None
    assert (str(plan.chosen.plan), plan.chosen.host_bytes) == ("fp32", needed)
    assert plan_memory(big(), Machine(total - 1, total - 1, False, False), made_up, try_all=False).chosen != plan.chosen


def test_a_gpu_takes_its_own_on_top() -> None:
    rung = plan_memory(big(), card(100), made_up, try_all=False).rungs[0]
    assert rung.device_bytes == rung.need.device_bytes + CUDA_BYTES


def test_a_run_that_cannot_fit_is_told_what_would() -> None:
    machine = card(2, 8)
    plan = plan_memory(big(), machine, made_up, try_all=False)
    said = refusal(plan, machine, "huge")
    assert said == (
        "the run huge does not fit a GPU of 2.0 GiB and 8.0 GiB of memory: it needs at least a GPU of 2.2 GiB and "
        "8.0 GiB of memory"
    )


def test_releasing_is_offered_only_where_the_run_clips_each_tensor() -> None:
    assert not any(plan.release for plan in ladder(tiny_config(), card(6)))
    assert any(plan.release for plan in ladder(big(), card(6)))


def test_bf16_weights_are_offered_only_to_devices_that_have_bf16() -> None:
    old = Machine(6 * GIB, 16 * GIB, is_gpu=True, bf16=False)
    assert {plan.weights for plan in ladder(big(), old)} == {WeightKind.FP32}


def test_state_and_blocks_go_to_the_host_also_where_the_norm_of_all_gradients_is_clipped() -> None:
    config = tiny_config("inner.clip='global'", "inner.optimizer='adamw8bit'")
    plans = list(ladder(config, card(6)))
    assert {plan.offload for plan in plans} == set(Offload)
    assert not any(plan.release for plan in plans)
    assert plans[-1].micro_batch_images == config.inner.batch_images // 4


def test_several_devices_divide_the_model_and_the_batch() -> None:
    two = replace(card(9), devices=2)
    assert {plan.devices for plan in ladder(big(), two)} == {2}
    assert str(fastest(big(), two)) == "fp32, 2 devices, release"
    assert {plan.devices for plan in ladder(big(), replace(two, devices=99))} == {big().inner.batch_images}


def test_muon_trains_on_one_device() -> None:
    muon = tiny_config("inner.optimizer='muon'")
    assert {plan.devices for plan in ladder(muon, replace(card(9), devices=2))} == {1}


def test_slowdown_tells_recomputing_and_offloading() -> None:
    rungs = {str(rung.plan): rung for rung in plan_memory(big(), card(1), made_up, try_all=True).rungs}
    assert rungs["fp32"].slowdown == 1
    assert rungs["fp32, recompute, release"].slowdown == pytest.approx(4 / 3)
    assert rungs["split, recompute, release, offload state"].slowdown > 1.5


def test_the_table_has_a_row_a_rung_and_marks_the_choice() -> None:
    plan = plan_memory(big(), card(6), made_up, try_all=True)
    rows = table(plan.rungs, plan.chosen)
    assert [row[-1] for row in rows].count("chosen") == 1
    assert len(rows) == len(plan.rungs)


@pytest.mark.parametrize("name", ["sd-unet", "prx-350m", "prx-1b"])
def test_shipped_large_runs_let_small_cards_release(name: str) -> None:
    config = load_toml(REPOSITORY / "configs" / f"{name}.toml", RunConfig)
    assert any(plan.release for plan in ladder(config, card(6)))


def test_a_volunteers_limits_are_all_that_is_planned_with() -> None:
    everything = this_machine(CPU, 1)
    limited = this_machine(CPU, 1, WorkerSettings.model_validate({"limits": {"ram_gib": 0.5, "vram_gib": 0.25}}))
    assert (limited.host_bytes, limited.device_bytes) == (GIB // 2, GIB // 2)  # without a GPU there is no VRAM
    generous = this_machine(CPU, 1, WorkerSettings.model_validate({"limits": {"ram_gib": 100_000.0}}))
    assert generous == everything  # nobody has more than is there
