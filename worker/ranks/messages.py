"""What the daemon and a rank say to each other, over a pipe of one machine.

    rank                      daemon
      | -- Ready ------------> |   the model is built
      | <-- Start ------------ |   a lease begins
      | -- Ready ------------> |
      | <-- Step ------------- |   as often as there are batches
      | -- Loss -------------> |
      | <-- WriteDelta ------- |   the shared vector, which held the base, becomes the delta
      | -- Ready ------------> |

Whenever the daemon closes the pipe, the rank ends. A rank that fails says `Failed` and ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.model.base import Embeddings
from worker.settings import WorkerSettings
from worker.step.plan import StepPlan
from worker.step.stepper import Drawn


@dataclass(frozen=True, slots=True)
class Job:
    """All that a rank needs to know."""

    config: RunConfig
    tokenizer_json: bytes
    plan: StepPlan
    settings: WorkerSettings
    vector_path: str
    """Of the shared vector."""
    num_elements: int
    meeting_path: str
    """File by which the ranks find each other."""


@dataclass(frozen=True, slots=True)
class Start:
    """See `Stepper.start`; the base is in the shared vector."""

    seed: int
    learning_rate: float


@dataclass(frozen=True, slots=True)
class Step:
    """A rank's share of a batch, all of the same size. Arrays rather than tensors, which would travel by shared memory."""

    x_BCHW: npt.NDArray[np.float32]
    captions: list[str]
    t_B: npt.NDArray[np.float32]
    eps_BCHW: npt.NDArray[np.float32]
    weight_B: npt.NDArray[np.float32]
    num_images: int
    """Of the whole batch."""
    text: tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_]] | None = None
    """Embeddings in bf16, bit by bit, and their mask."""

    @classmethod
    def of(cls, share: Drawn, num_images: int) -> Step:
        """The message for a `share`."""
        arrays = (share.t_B.numpy(), share.eps_BCHW.numpy(), share.weight_B.numpy())
        text = None
        if share.text is not None:
            values_BLD = share.text.values_BLD.to(torch.bfloat16)  # as they are cached
            text = (values_BLD.view(torch.int16).numpy(), share.text.mask_BL.numpy())
        return cls(share.x_BCHW.numpy(), share.captions, *arrays, num_images, text)

    def share(self) -> Drawn:
        """The share as tensors."""
        x_BCHW, t_B, eps_BCHW, weight_B = map(torch.from_numpy, (self.x_BCHW, self.t_B, self.eps_BCHW, self.weight_B))
        text = None
        if self.text is not None:
            values_BLD, mask_BL = map(torch.from_numpy, self.text)
            text = Embeddings(values_BLD.view(torch.bfloat16), mask_BL)
        return Drawn(x_BCHW, self.captions, t_B, eps_BCHW, weight_B, text)


@dataclass(frozen=True, slots=True)
class WriteDelta:
    """See `Stepper.delta`."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Done."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A rank's part of a step's mean loss."""

    value: float


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a rank ends."""

    sentence: str
    out_of_memory: bool


Command = Start | Step | WriteDelta
Reply = Ready | Loss | Failed
