"""What encoding captions with a run's frozen text encoder needs, found by encoding some under fake tensors.

That is no part of a training step: captions are encoded before a lease's first step, and the encoder has gone by then.
"""

from __future__ import annotations

import gc

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from diffusion_at_home.config.run import ModelSection
from diffusion_at_home.frozen_text import frozen_kind
from diffusion_at_home.model.base import Tokens
from diffusion_at_home.model.frozen import captions_at_once, encoder_of_shapes, hidden_states
from worker.memory.tracker import MemoryTracker


def encoding_bytes(model: ModelSection, config_json: str) -> int:
    """Most bytes of tensors at once: the encoder in fp32, and what it computes for captions of the most tokens.

    `config_json` is what the encoder says of itself.
    """
    gc.collect()
    section = model.text
    with FakeTensorMode(), MemoryTracker() as tracker:
        encoder = encoder_of_shapes(frozen_kind(model.kind), config_json)
        ids_BL = torch.zeros(captions_at_once(section), section.max_tokens, dtype=torch.int64)
        hidden_states(encoder, Tokens(ids_BL, torch.ones_like(ids_BL, dtype=torch.bool)))
    return tracker.peak_bytes
