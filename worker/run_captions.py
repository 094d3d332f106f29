"""The captions of a run's shards as its frozen text encoder reads them, on this machine."""

from __future__ import annotations

from collections.abc import Callable

import torch

from diffusion_at_home import events
from diffusion_at_home.runspec import RunSpec
from worker.blobs import BlobFetcher
from worker.captions import CaptionEmbeddings
from worker.memory.choice import Machine, encodes_on_device
from worker.memory.planning import WorkPlan
from worker.step.compute import Compute
from worker.text_encoder import RunTextEncoder

_log = events.logger("worker")


def caption_embeddings(
    spec: RunSpec,
    blobs: BlobFetcher,
    *,
    machine: Machine,
    plan: WorkPlan,
    compute: Compute,
    fetch: Callable[[RunTextEncoder], None],
) -> CaptionEmbeddings | None:
    """Of a run whose text encoder is frozen, which `fetch` brings before any lease is trained; None of any other.

    Raises `HardwareError` if the encoder does not fit beside the training.
    """
    text = spec.text_encoder
    if text is None:
        return None
    from worker.memory.encoding import encoding_bytes  # noqa: PLC0415 -- loads what other runs do not need

    num_bytes = encoding_bytes(spec.config.model, text.config_json)

    def device() -> torch.device:
        on_device = encodes_on_device(num_bytes, plan.rung, machine, spec.config.run.name)
        return compute.device if on_device else torch.device("cpu")

    _log.info("encoding_planned", num_bytes=num_bytes, device=device().type)
    encoder = RunTextEncoder(spec, text, blobs, device)
    fetch(encoder)
    return CaptionEmbeddings(spec, text, encoder, blobs.cache)
