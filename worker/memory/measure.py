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
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from diffusion_at_home.config.run import InnerKind, RunConfig
from diffusion_at_home.model.build import build_model
from diffusion_at_home.wire.layout import Layout
from worker.memory.tracker import Holds, MemoryTracker
from worker.step.compute import Compute
from worker.step.plan import StepPlan
from worker.step.weights import DTYPES
from worker.trainer import Drawn, LeaseTrainer


@dataclass(frozen=True, slots=True)
class Need:
    """One step of one plan. Bytes are those of tensors at the moment when the device holds most."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    offloaded_bytes: int
    """State and remainders on the host."""
    flops: int
    """Multiplications and additions of a step, recomputed ones included."""
    num_parameters: int

    @property
    def device_bytes(self) -> int:
        """The peak."""
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes + self.activations_bytes

    @property
    def host_bytes(self) -> int:
        """Of the host besides what the process itself takes: the base and the delta in fp32, and what is offloaded."""
        return 8 * self.num_parameters + self.offloaded_bytes


def measure(config: RunConfig, tokenizer_json: bytes, plan: StepPlan, *, autocast: bool) -> Need:
    """Take one step of `plan` on a full batch of the run's default size; `autocast`: the device computes fp32 in bf16."""
    gc.collect()
    with FakeTensorMode(), MemoryTracker() as tracker:
        with _default_dtype(DTYPES[plan.weights]):
            model = build_model(config.model, config.objective, tokenizer_json, config.run.seed)
        layout = Layout.of(model)
        base = torch.empty(layout.num_elements)
        trainer = LeaseTrainer(config, model, layout, Compute(torch.device("cpu"), autocast), plan)
        optimizer = trainer.start(base, 0, config.inner.learning_rate)
        tracker.mark([*model.parameters(), *model.buffers()], Holds.WEIGHTS)
        tracker.mark([base], Holds.HOST)
        tracker.mark(trainer.kept(), Holds.HOST if plan.offload else Holds.WEIGHTS)
        on_host = plan.offload or config.inner.optimizer is InnerKind.GRADIENT  # a mean gradient is the delta itself
        tracker.mark(optimizer.state(), Holds.HOST if on_host else Holds.OPTIMIZER)
        offloaded = tracker.now[Holds.HOST] - base.nbytes if plan.offload else 0
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(_marker(tracker))  # type: ignore[no-untyped-call]
        tracker.forget_peak()
        tracker.flops = 0
        trainer.step(_drawn(config), optimizer)
    peak = tracker.peak
    return Need(
        weights_bytes=peak[Holds.WEIGHTS],
        gradients_bytes=peak[Holds.GRADIENTS],
        optimizer_bytes=peak[Holds.OPTIMIZER],
        activations_bytes=peak[Holds.ACTIVATIONS],
        offloaded_bytes=offloaded,
        flops=tracker.flops,
        num_parameters=layout.num_elements,
    )


def _drawn(config: RunConfig) -> Drawn:
    num_images = config.inner.batch_images
    x_BCHW = torch.empty(num_images, *config.model.sample_shape)
    return Drawn(x_BCHW, ["a caption"] * num_images, torch.empty(num_images), torch.empty_like(x_BCHW))


def _marker(tracker: MemoryTracker) -> Callable[[Tensor], None]:
    def mark(parameter: Tensor) -> None:
        if parameter.grad is not None:
            tracker.mark([parameter.grad], Holds.GRADIENTS)

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
