"""A pretrained text encoder of random weights in a folder of its own, as somebody may have it: T5 for prx, CLIP for unet."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedModel, T5Config, T5EncoderModel

from diffusion_at_home.config.run import TextEncoderSection
from diffusion_at_home.frozen_text import FrozenKind, frozen_kind
from diffusion_at_home.model.text import load_tokenizer
from tests.unit.tiny_families import family_overrides
from tests.unit.tiny_run import CAPTIONS, tiny_config, tiny_tokenizer

HIDDEN: Final = 24
"""Features; the tiny run's own encoders have 16."""
MAX_TOKENS: Final = 6
VOCABULARY: Final = 300


def save_text_encoder(
    folder: Path, kind: FrozenKind, *, seed: int = 0, tokenizer: bool = True, **changes: Any
) -> PreTrainedModel:
    """Write one to `folder`, with its tokenizer; `changes` are of its config."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        encoder = _t5(**changes) if kind is FrozenKind.T5 else _clip(**changes)
    encoder.save_pretrained(folder)
    if tokenizer:
        section = TextEncoderSection(vocab_size=VOCABULARY, max_tokens=77)
        load_tokenizer(tiny_tokenizer(tiny_config()), section).save_pretrained(folder)
    return encoder.eval()


def frozen_overrides(family: str, text_encoder: Path, autoencoder: Path) -> tuple[str, ...]:
    """What makes the tiny run one of `family` whose text encoder is that in `text_encoder`."""
    sizes = (f"model.text.hidden_size={HIDDEN}", f"model.text.max_tokens={MAX_TOKENS}", "model.text.heads=2")
    return (*family_overrides(family, autoencoder), f"model.text.encoder='{text_encoder}'", *sizes)


def kind_of(family: str) -> FrozenKind:
    """What a family of `tiny_families` takes."""
    config = tiny_config(*family_overrides(family, Path("nowhere")))
    return frozen_kind(config.model.kind)


def _t5(**changes: Any) -> T5EncoderModel:
    sizes = {"vocab_size": VOCABULARY, "d_model": HIDDEN, "d_kv": 12, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    return T5EncoderModel(T5Config(**(sizes | {"feed_forward_proj": "gated-gelu", "dropout_rate": 0.1} | changes)))


def _clip(**changes: Any) -> CLIPTextModel:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": 32, "num_hidden_layers": 2}
    positions = {"num_attention_heads": 2, "max_position_embeddings": 8, "projection_dim": HIDDEN}
    return CLIPTextModel(CLIPTextConfig(**(sizes | positions | {"pad_token_id": 0, "eos_token_id": 1} | changes)))


LONG_CAPTION: Final = f"{CAPTIONS[0]} beside {CAPTIONS[1]} &amp; more of both"
"""More tokens than are kept, and something to clean."""
