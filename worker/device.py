"""What this machine computes on: the one file that knows accelerate and asks torch about hardware."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import psutil
import torch
from accelerate import Accelerator, init_empty_weights
from accelerate.state import AcceleratorState
from torch import nn

from diffusion_at_home.errors import HardwareError
from diffusion_at_home.rpc.coordinator_pb2 import Hardware
from worker.gpu_numbers import switched_on
from worker.nvidia import card_uuids
from worker.settings import Device, Precision, WorkerSettings
from worker.step.compute import Compute

ModelT = TypeVar("ModelT", bound=nn.Module)

_DEFAULT_THREADS: Final = torch.get_num_threads()
"""What a process starts with, however often a device is opened in it."""

_TRIAL: Final = 8
"""Side of the matrix that shows whether a device computes at all."""


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """Which torch is installed, and whether it reaches a GPU."""

    version: str
    cuda: str
    """CUDA version it was built for, as in "12.6"; empty for any other build."""
    usable: bool
    """Whether it finds a device it can use."""


def torch_build() -> TorchBuild:
    """The installed torch on this machine."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about drivers: who asks has a sentence of its own
        usable = torch.cuda.is_available()
    return TorchBuild(torch.__version__, torch.version.cuda or "", usable)


def num_threads() -> int:
    """CPU threads that torch computes with, once the device is open."""
    return torch.get_num_threads()


def open_device(settings: WorkerSettings, index: int = 0) -> Compute:
    """The device and precision to train with; `index` counts those in use. Raises `HardwareError`."""
    torch.set_num_threads(max(1, (settings.threads or _DEFAULT_THREADS) // num_devices(settings)))
    cuda = torch.cuda.is_available()
    if settings.device is Device.CUDA and not cuda:
        raise HardwareError(
            "device = 'cuda', but no CUDA device is usable here: install its driver or set device = 'cpu'"
        )
    use_cuda = cuda and settings.device is not Device.CPU
    gpu = torch.device("cuda", gpus(settings)[index]) if use_cuda else None
    if gpu is not None:
        torch.cuda.set_device(gpu)  # first of all: what follows asks and opens the current one
    bf16_cuda = use_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    if settings.precision is Precision.BF16 and use_cuda and not bf16_cuda:
        raise HardwareError("precision = 'bf16', but this CUDA device does not have it: set precision = 'fp32'")
    bf16 = settings.precision is Precision.BF16 or (settings.precision is Precision.AUTO and bf16_cuda)
    # It remembers the first answer in a process, whatever is asked later.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=not use_cuda, mixed_precision="bf16" if bf16 else "no")
    return Compute(accelerator.device if gpu is None else gpu, autocast=accelerator.mixed_precision == "bf16")


def gpus(settings: WorkerSettings) -> tuple[int, ...]:
    """The GPUs that may train, by torch's numbers; empty where a processor does. Opens none of them.

    Raises `HardwareError` if there are some and all are switched off.
    """
    found = tuple(range(torch.cuda.device_count())) if settings.device is not Device.CPU else ()
    off = settings.limits.gpus_off
    if not found or not off:
        return found
    on = switched_on([str(torch.cuda.get_device_properties(gpu).uuid) for gpu in found], off, card_uuids())
    if not on:
        raise HardwareError(
            f"limits.gpus_off = {list(off)} switches off every GPU here: leave one out, or set device = 'cpu'"
        )
    return on


def num_devices(settings: WorkerSettings) -> int:
    """How many devices train together. Raises `HardwareError`."""
    found = len(gpus(settings))
    if found and settings.devices > found:
        raise HardwareError(
            f"devices = {settings.devices}, but {found} GPUs are here and on: set devices = 0 to use them all"
        )
    return settings.devices or max(found, 1)


def shapes_only(build: Callable[[], ModelT]) -> ModelT:
    """The model that `build` makes, with parameters that have shapes but no memory; buffers are as ever."""
    with init_empty_weights(include_buffers=False):
        model = build()
    for module in model.modules():
        tie = getattr(module, "tie_weights", None)  # transformers' models share some, which was undone above
        if callable(tie):
            tie()
    return model


def describe(compute: Compute, devices: int) -> Hardware:
    """What is shown to people of this machine, which trains with `devices` of these."""
    if compute.device.type == "cuda":
        properties = torch.cuda.get_device_properties(compute.device)
        return Hardware(
            device="cuda",
            device_name=properties.name[:128],
            num_devices=devices,
            memory_bytes=properties.total_memory,
        )
    name = platform.processor() or platform.machine()
    return Hardware(
        device="cpu", device_name=name[:128], num_devices=devices, memory_bytes=psutil.virtual_memory().total
    )


def try_out(compute: Compute) -> None:
    """Compute a little there. Raises `HardwareError` if this torch has nothing that runs on the device."""
    try:
        matrix = torch.ones(_TRIAL, _TRIAL, device=compute.device, dtype=torch.bfloat16 if compute.autocast else None)
        computed = bool((matrix @ matrix == _TRIAL).all())
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise HardwareError(
            f"{compute.device} fails at the first computation ({reason}): install a torch that supports it, "
            "or set device = 'cpu'"
        ) from None
    if not computed:
        raise HardwareError(f"{compute.device} computes wrongly: do not train with it")
