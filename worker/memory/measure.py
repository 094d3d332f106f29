"""What one training step needs, found by taking it: our own trainer under fake tensors, which have shapes but no memory.

The CPU stands in for the device, whose allocator and kernels add their own (`worker.memory.choice`). Known to be too low: CUDA's
autocast keeps norms and softmax in fp32, so fp32 weights need more activations there than here.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from diffusion_at_home.config.run import InnerKind, RunConfig
from diffusion_at_home.model.base import Embeddings
from diffusion_at_home.model.build import build_model, model_family
from diffusion_at_home.wire.layout import Layout
from worker.memory.tracker import Holds, MemoryTracker
from worker.step.compute import Compute
from worker.step.plan import Offload, StepPlan
from worker.step.shards import local, shard
from worker.step.stepper import Drawn, ModelStepper
from worker.step.weights import DTYPES


@dataclass(frozen=True, slots=True)
class Need:
    """One step of one plan, on one of its devices. Bytes are those of tensors at the moment when the device holds most."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    offloaded_bytes: int
    """What of this device's part lies on the host."""
    flops: int
    """Multiplications and additions of a step, recomputed ones included."""
    num_parameters: int
    """Of the whole model."""
    residual_bytes: int
    """Kept on the host for error feedback, if the run wants that."""

    @property
    def device_bytes(self) -> int:
        """The peak."""
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes + self.activations_bytes

    @property
    def vector_bytes(self) -> int:
        """Of all weights in fp32: a base, or a delta."""
        return 4 * self.num_parameters

    def host_bytes(self, devices: int) -> int:
        """Of the host besides what processes and devices themselves take: base, delta, residual, and what is offloaded."""
        return 2 * self.vector_bytes + self.residual_bytes + devices * self.offloaded_bytes


def measure(
    config: RunConfig,
    tokenizer_json: bytes,
    plan: StepPlan,
    *,
    autocast: bool,
    shape: tuple[int, int, int] | None = None,
) -> Need:
    """Take one step of `plan` on one device's share of a batch.

    `autocast`: the device computes fp32 in bf16. `shape`: (C, H, W) of what is denoised; None is the run's square, of which
    no bucket is larger.
    """
    gc.collect()
    model_family(config.model.kind)  # modules compute tables when they are loaded, of real numbers
    compute = Compute(torch.device("cpu"), autocast)
    with _mesh(plan) as mesh, FakeTensorMode(), MemoryTracker() as tracker:
        with _default_dtype(DTYPES[plan.weights]):
            model = build_model(config.model, config.objective, tokenizer_json, config.run.seed)
        layout = Layout.of(model)
        base = torch.empty(layout.num_elements)
        if mesh is not None:
            shard(model, mesh, plan, compute)
        stepper = ModelStepper(config, model, layout, compute, plan)
        stepper.start(base, 0, config.inner.learning_rate)
        assert stepper.optimizer is not None
        state, kept = stepper.optimizer.state(), stepper.weights.kept()
        homes = _homes(plan, config.inner.optimizer)
        tracker.mark([local(tensor) for tensor in model.parameters()], homes[Holds.WEIGHTS])
        tracker.mark(model.buffers(), Holds.WEIGHTS)
        tracker.mark([base], Holds.HOST)
        tracker.mark(kept, Holds.HOST if plan.offload is not Offload.NOTHING else Holds.WEIGHTS)
        tracker.mark(state, homes[Holds.OPTIMIZER])
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(_marker(tracker, homes[Holds.GRADIENTS]))  # type: ignore[no-untyped-call]
        tracker.forget_peak()
        tracker.flops = 0
        drawn = _share(config, plan.devices, shape or config.model.sample_shape)
        stepper.accumulate(drawn)
        stepper.update(config.inner.batch_images)
    peak = tracker.peak
    return Need(
        weights_bytes=peak[Holds.WEIGHTS],
        gradients_bytes=peak[Holds.GRADIENTS],
        optimizer_bytes=peak[Holds.OPTIMIZER],
        activations_bytes=peak[Holds.ACTIVATIONS],
        offloaded_bytes=max(tracker.most_on_host - base.nbytes, 0),
        flops=tracker.flops,
        num_parameters=layout.num_elements,
        residual_bytes=base.nbytes if config.codec.feedback else 0,
    )


def _homes(plan: StepPlan, optimizer: InnerKind) -> dict[Holds, Holds]:
    """What counts as what: that which lies on the host is not of the device."""
    homes = {holds: holds for holds in Holds}
    if plan.offload is not Offload.NOTHING or optimizer is InnerKind.GRADIENT:
        homes[Holds.OPTIMIZER] = Holds.HOST
    if plan.offload is Offload.BLOCKS:
        homes |= {Holds.WEIGHTS: Holds.HOST, Holds.GRADIENTS: Holds.HOST}
    return homes


@contextmanager
def _mesh(plan: StepPlan) -> Iterator[DeviceMesh | None]:
    """Within, this process is one of plan.devices, whose others do not exist: what they would send is of the right size."""
    if not plan.sharded:
        yield None
        return
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=plan.devices)
    try:
        yield init_device_mesh("cpu", (plan.devices,))
    finally:
        distributed.destroy_process_group()


def _share(config: RunConfig, devices: int, shape: tuple[int, int, int]) -> Drawn:
    num_images = -(-config.inner.batch_images // devices)
    x_BCHW = torch.empty(num_images, *shape)
    some_B = torch.empty(num_images)
    text = Embeddings.made_up(config.model.text, num_images)
    return Drawn(x_BCHW, ["a caption"] * num_images, some_B, torch.empty_like(x_BCHW), some_B.clone(), text)


def _marker(tracker: MemoryTracker, holds: Holds) -> Callable[[Tensor], None]:
    def mark(parameter: Tensor) -> None:
        if parameter.grad is not None:
            tracker.mark([local(parameter.grad)], holds)

    return mark


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Within, modules are built in `dtype`: fake ones cannot be converted afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
