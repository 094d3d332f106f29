"""How a model is cut over the local devices, so that none holds it whole: the one file that knows FSDP.

Each parameter is cut along its first dimension. A block's parameters are gathered when it computes and dropped again; its
gradients are summed over the devices and cut the same way. Beside its parts, a device holds one or two blocks at a time.
With `Offload.BLOCKS` the parts lie in the host's memory, which also makes sense on a single device.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from diffusion_at_home.model.base import DiffusionModel
from worker.step.compute import Compute
from worker.step.masters import WeightKind
from worker.step.plan import Offload, StepPlan


def shard(model: DiffusionModel, mesh: DeviceMesh, plan: StepPlan, compute: Compute) -> None:
    """Cut `model` in place over `mesh`, which has one dimension; every process of the mesh does the same.

    The gradient of a loss is then the *sum* of the devices' gradients.
    """
    computes_in_bf16 = plan.weights is WeightKind.FP32 and compute.autocast
    precision = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if computes_in_bf16 else None,
        reduce_dtype=torch.float32,  # a sum of few, but of numbers that bf16 would round once more
        cast_forward_inputs=False,  # times must stay exact; models cast what they compute with
    )
    pinned = compute.device.type == "cuda"
    offload = CPUOffloadPolicy(pin_memory=pinned) if plan.offload is Offload.BLOCKS else OffloadPolicy()
    # Blocks of T5 return views, on which nobody works in place; torch warns in case somebody does.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    for module in (*model.blocks(), model):
        fully_shard(module, mesh=mesh, mp_policy=precision, offload_policy=offload)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other way to scale


def materialize(model: nn.Module, plan: StepPlan, compute: Compute) -> None:
    """Give memory to a cut model that was built with shapes only; its buffers have values and move along."""
    home = torch.device("cpu") if plan.offload is Offload.BLOCKS else compute.device
    model._apply(  # type: ignore[no-untyped-call]  # as `to_empty` does, which would also empty the buffers
        lambda tensor: torch.empty_like(tensor, device=home) if tensor.is_meta else tensor.to(compute.device)
    )


def local(tensor: Tensor) -> Tensor:
    """The part of `tensor` that lies here, sharing its memory: all of it if it is not cut."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def first_element(tensor: Tensor) -> int:
    """Where the part that lies here begins in the flattened whole."""
    if not isinstance(tensor, DTensor):
        return 0
    rows, mesh = tensor.shape[0], tensor.device_mesh
    begin = min(-(-rows // mesh.size()) * mesh.get_local_rank(), rows)  # as torch.chunk cuts
    return begin * (tensor.numel() // rows)
