"""Loads a checkpoint as any downloader does: by stock diffusers, from the folder alone, without progress bars."""

from __future__ import annotations

from pathlib import Path

import diffusers.utils.logging as diffusers_logging
import transformers.utils.logging as transformers_logging
from diffusers import DiffusionPipeline

from diffusion_at_home.checkpoint.manifest import PIPELINE_NAME


def load_pipeline(folder: Path, variant: str | None = None) -> DiffusionPipeline:
    """The pipeline in `folder`, whose files the caller has verified; `variant` names the weights beside the default."""
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    made_of_experts = (folder / PIPELINE_NAME).is_file()  # verified: it is ours, byte for byte
    pipeline = DiffusionPipeline.from_pretrained(
        folder, variant=variant, local_files_only=True, use_safetensors=True, trust_remote_code=made_of_experts
    )
    if made_of_experts:
        pipeline = pipeline.stock()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
