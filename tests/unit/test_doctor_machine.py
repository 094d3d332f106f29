"""Each line about the machine alone, for machines that are well and machines that are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from diffusion_at_home.doctor import Check, Diagnosis, State, checked, failed, fine, problem, skipped
from diffusion_at_home.errors import ConfigError, HardwareError, StorageError, Unreachable
from diffusion_at_home.identity import Identity
from worker.device import TorchBuild, open_device, torch_build, try_out
from worker.doctor.machine import (
    check_cache_dir,
    check_cores,
    check_device,
    check_key,
    check_ram,
    check_state_dir,
    check_vram,
    free_disk,
    process_name,
)
from worker.nvidia import Card, CardUser, Driver
from worker.settings import Device, Precision, WorkerSettings
from worker.step.compute import CPU

GIB = 2**30
AUTO = WorkerSettings()
ON_CPU = WorkerSettings.model_validate({"device": "cpu"})
ON_CUDA = WorkerSettings.model_validate({"device": "cuda"})

CARD = Card("RTX 3060", 12 * GIB, 11 * GIB, ())
DRIVER = Driver("550.54", (12, 4), (CARD,))
DEAD = HardwareError("the NVIDIA driver does not answer (Unknown Error): restart this machine")
CPU_BUILD = TorchBuild("2.13.0+cpu", "", usable=False)
SEES_IT = TorchBuild("2.13.0", "12.6", usable=True)
BLIND = TorchBuild("2.13.0", "12.6", usable=False)
TOO_NEW = TorchBuild("2.13.0", "13.0", usable=False)


def told(check: Check) -> str:
    return f"{check.found}: {check.advice}"


def works() -> str:
    return "it works"


# -- device -----------------------------------------------------------------------------------------------------------


def test_a_card_that_torch_can_use_is_fine_with_its_versions() -> None:
    check = check_device(AUTO, SEES_IT, DRIVER, works)
    assert check == fine("device", "it works, NVIDIA driver 550.54, torch for CUDA 12.6")


@pytest.mark.parametrize(("settings", "driver"), [(AUTO, None), (ON_CPU, None), (ON_CPU, DRIVER), (ON_CPU, DEAD)])
def test_a_processor_is_fine_where_there_is_no_card_or_none_is_wanted(
    settings: WorkerSettings, driver: Driver | HardwareError | None
) -> None:
    assert check_device(settings, CPU_BUILD, driver, works) == fine("device", "it works")


@pytest.mark.parametrize(
    ("build", "driver", "found", "advice"),
    [
        (CPU_BUILD, DRIVER, "torch 2.13.0+cpu cannot use the RTX 3060", "install a CUDA build of torch"),
        (
            TOO_NEW,
            DRIVER,
            "driver 550.54 serves CUDA 12.4, and torch 2.13.0 is built for CUDA 13.0",
            "update the NVIDIA",
        ),
        (BLIND, DRIVER, "torch 2.13.0 does not find the RTX 3060", "restart this machine"),
        (BLIND, Driver("550.54", (12, 4), ()), "NVIDIA driver 550.54 finds no card", "plugged in"),
        (BLIND, DEAD, "the NVIDIA driver does not answer", "restart this machine"),
    ],
)
def test_a_card_that_torch_cannot_use_says_why(
    build: TorchBuild, driver: Driver | HardwareError, found: str, advice: str
) -> None:
    warned = check_device(AUTO, build, driver, works)
    assert (warned.state, warned.found.startswith("it works, for ")) == (State.WARNING, True)
    refused = check_device(ON_CUDA, build, driver, works)
    assert (refused.state, refused.kind) == (State.PROBLEM, HardwareError)
    for check in (warned, refused):
        assert found in check.found
        assert advice in check.advice


def test_cuda_without_a_driver_asks_for_one() -> None:
    check = check_device(ON_CUDA, CPU_BUILD, None, works)
    assert (check.state, check.advice) == (
        State.PROBLEM,
        "install the driver of your card, or set device = 'auto'",
    )


def test_an_older_minor_version_of_the_driver_is_not_blamed() -> None:
    assert "built for" not in told(check_device(AUTO, BLIND, DRIVER, works))


def test_a_device_that_does_not_open_is_a_problem() -> None:
    def refuse() -> str:
        raise HardwareError("precision = 'bf16', but this CUDA device does not have it: set precision = 'fp32'")

    check = check_device(AUTO, SEES_IT, DRIVER, refuse)
    assert (check.state, check.kind, check.advice) == (State.PROBLEM, HardwareError, "set precision = 'fp32'")


def test_the_processor_of_this_machine_computes() -> None:
    try_out(CPU)
    try_out(open_device(WorkerSettings.model_validate({"device": "cpu", "precision": "bf16"})))
    assert torch_build().version


# -- memory and cores -------------------------------------------------------------------------------------------------


def test_a_card_that_is_free_is_fine_and_one_in_use_names_its_users() -> None:
    used = Card("RTX 3060", 12 * GIB, 5 * GIB, (CardUser(7, 6 * GIB), CardUser(8, None)))
    checks = check_vram(AUTO, Driver("550.54", (12, 4), (CARD, used)), {7: "blender", 8: "Xorg"}.__getitem__)
    assert [check.state for check in checks] == [State.FINE, State.WARNING]
    assert checks[0].found == "RTX 3060: 11.0 of 12.0 GiB free"
    assert checks[1].found == "RTX 3060: 5.0 of 12.0 GiB free; in use by blender (6.0 GiB), Xorg"


@pytest.mark.parametrize(
    ("settings", "driver", "reason"),
    [
        (ON_CPU, DRIVER, "device = 'cpu' uses no card"),
        (AUTO, None, "there is no NVIDIA driver here"),
        (AUTO, DEAD, "the NVIDIA driver does not answer"),
        (AUTO, Driver("550.54", (12, 4), ()), "NVIDIA driver 550.54 finds no card"),
    ],
)
def test_without_a_card_vram_is_skipped_with_a_reason(
    settings: WorkerSettings, driver: Driver | HardwareError | None, reason: str
) -> None:
    assert check_vram(settings, driver, process_name) == [skipped("vram", reason)]


def test_a_process_is_named_and_one_that_is_gone_has_its_number() -> None:
    assert process_name(os.getpid())
    assert process_name(2**22 + 1) == "process 4194305"  # beyond what Linux gives out


def test_little_ram_is_a_warning() -> None:
    assert check_ram(12 * GIB, 16 * GIB, "ask") == fine("ram", "12.0 of 16.0 GiB available", "ask")
    check = check_ram(GIB // 2, 16 * GIB, "ask")
    assert (check.state, check.advice) == (State.WARNING, "close other programs before you train")


def test_more_threads_than_cores_is_a_warning() -> None:
    assert check_cores(4, 4, 8).state is State.FINE
    check = check_cores(8, 4, 8)
    assert (check.state, check.advice) == (State.WARNING, "set threads = 4, or 0 for all of them")


# -- folders and key --------------------------------------------------------------------------------------------------


def plenty(_: Path) -> int:
    return 100 * GIB


def test_folders_are_made_and_nothing_is_left_in_them(tmp_path: Path) -> None:
    state, cache = tmp_path / "a" / "state", tmp_path / "b" / "cache"
    assert check_state_dir(state, plenty) == fine("state_dir", f"{state}: 100.0 GiB free")
    assert check_cache_dir(cache, 20 * GIB, plenty).state is State.FINE
    assert [*state.iterdir(), *cache.iterdir()] == []
    assert free_disk(tmp_path) > 0


def test_a_folder_that_cannot_be_made_is_a_storage_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    state = check_state_dir(tmp_path / "file" / "state", plenty)
    cache = check_cache_dir(tmp_path / "file" / "cache", GIB, plenty)
    for check in (state, cache):
        assert (check.state, check.kind, check.advice) == (State.PROBLEM, StorageError, "choose another place")


def test_a_full_disk_is_a_storage_problem(tmp_path: Path) -> None:
    state = check_state_dir(tmp_path, lambda _: 100 * 2**20)
    cache = check_cache_dir(tmp_path, GIB, lambda _: 100 * 2**20)
    assert (state.state, cache.state, cache.kind) == (State.PROBLEM, State.PROBLEM, StorageError)
    assert state.found == f"{tmp_path}: 100 MiB free"


def test_a_cache_that_may_outgrow_the_disk_is_a_warning_with_what_would_fit(tmp_path: Path) -> None:
    check = check_cache_dir(tmp_path, 20 * GIB, lambda _: 3 * GIB + GIB // 2)
    assert (check.state, check.advice) == (State.WARNING, "free some space, or set cache_gib = 3.5")


def test_what_the_cache_holds_already_counts_as_room(tmp_path: Path) -> None:
    with (tmp_path / "blob").open("wb") as file:
        file.truncate(2 * GIB)  # sparse
    assert check_cache_dir(tmp_path, 3 * GIB, lambda _: GIB).state is State.FINE
    assert check_cache_dir(tmp_path, 3 * GIB + 1, lambda _: GIB).state is State.WARNING


def test_a_key_is_looked_at_and_never_made(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    assert check_key(path) == fine("key", "none yet: the first join makes one")
    assert not path.exists()
    worker_id = Identity.load_or_create(path).worker_id
    assert check_key(path) == fine("key", f"worker {worker_id}")


def test_a_key_that_others_may_read_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    Identity.load_or_create(path)
    path.chmod(0o644)
    check = check_key(path)
    assert (check.state, check.advice) == (State.WARNING, f"chmod 600 {path}")


def test_what_is_no_key_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(b"short")
    check = check_key(path)
    assert (check.state, check.kind) == (State.PROBLEM, ConfigError)
    assert check.advice.startswith("delete it")
    path.unlink()
    path.mkdir()
    check = check_key(path)
    assert (check.state, check.kind, check.advice) == (
        State.PROBLEM,
        ConfigError,
        f"see that {path} is a file of yours",
    )


# -- what it comes to -------------------------------------------------------------------------------------------------


def test_an_error_is_parted_into_what_is_so_and_what_to_do() -> None:
    check = failed("http", Unreachable("nobody answers at http://a:1: try again later"), "otherwise")
    assert (check.found, check.advice) == ("nobody answers at http://a:1", "try again later")
    assert failed("http", Unreachable("gone"), "otherwise").advice == "otherwise"


def test_a_failure_of_the_system_is_of_the_kind_of_its_line() -> None:
    def look() -> Check:
        raise OSError("broken disk")

    assert checked("key", look, "do it", StorageError) == problem("key", "broken disk", "do it", StorageError)


def test_the_first_problem_decides_the_exit_code() -> None:
    well, skip = fine("a", ""), skipped("b", "")
    first, second = problem("c", "", "x", StorageError), problem("d", "", "x", HardwareError)
    assert (Diagnosis((well, skip)).fit, Diagnosis((well, skip)).exit_code) == (True, 0)
    both = Diagnosis((well, first, second))
    assert (both.fit, both.exit_code) == (False, StorageError.exit_code)
    assert both.plain()["checks"][1] == {"name": "c", "state": "problem", "found": "", "advice": "x"}


def test_a_device_is_opened_in_the_precision_asked_for_whatever_was_asked_before() -> None:
    for precision in (Precision.BF16, Precision.FP32, Precision.BF16):
        settings = WorkerSettings(device=Device.CPU, precision=precision)
        assert open_device(settings).autocast is (precision is Precision.BF16)
