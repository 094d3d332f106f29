"""A pretrained text encoder that stays as it is: beside the model and never in it, loaded when it is first needed.

Its invariants: only safetensors and JSON are read, a weight that the files lack is refused rather than made up, and a caption
gives the same embedding in training, in evaluations and in the exported pipeline, but for rounding. It computes in fp32 whatever
it is stored in, several captions at once, whose number depends on the config alone: the same captions in the same order give
the same bits on the same machine and software. Other machines sum in another order, which changes the last bits of fp32.

Shapes: B captions, L text tokens, D text features.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
import transformers.utils.logging as transformers_logging
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    CLIPTextModel,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5EncoderModel,
)

from diffusion_at_home.config.run import OWN, TextEncoderSection
from diffusion_at_home.config.toml import first_mistake
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.frozen_text import CONFIG_NAME, EncoderFile, FrozenKind, FrozenText
from diffusion_at_home.model.autoencoder import weights_digest
from diffusion_at_home.model.base import Embeddings, Tokens
from diffusion_at_home.model.chosen_tokenizer import load_chosen_tokenizer, read_chosen_tokenizer, tokenizer_beside
from diffusion_at_home.model.text import tokens_of
from diffusion_at_home.outer.state import writing_safetensors

CPU: Final = torch.device("cpu")

_CLASSES: Final[dict[FrozenKind, type[PreTrainedModel]]] = {
    FrozenKind.T5: T5EncoderModel,
    FrozenKind.CLIP: CLIPTextModel,
}
_MODEL_TYPES: Final = {FrozenKind.T5: {"t5"}, FrozenKind.CLIP: {"clip", "clip_text_model"}}
"""What a config.json may call itself; whole T5 and CLIP models have the encoder in them."""

_SIZES: Final = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
}
"""Keys of model.text, and what transformers calls them."""

_CHUNK_TOKENS: Final = 4096
"""Encoded at once."""
_LARGEST_FILE: Final = "2GB"
"""Into which the weights are cut where they are more: what breaks off is less to fetch again."""


class FrozenEncoder:
    """Makes embeddings of captions.

    Raises `ConfigError` at the first use if the encoder cannot be loaded or is not what the config says.
    """

    def __init__(self, section: TextEncoderSection, kind: FrozenKind, clean: Callable[[str], str]) -> None:
        """`clean` is what the family's pipeline does to a prompt first."""
        self._section = section
        self._kind = kind
        self._clean = clean

    @cached_property
    def encoder(self) -> PreTrainedModel:
        """In fp32, as it is exported."""
        return open_encoder(self._section, self._kind, torch.float32)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """That of the encoder's folder."""
        return tokenizer_beside(self._section)

    def adopt(self, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        """Use those of a loaded pipeline from now on."""
        self.__dict__["encoder"] = encoder.eval().requires_grad_(False)
        self.__dict__["tokenizer"] = tokenizer

    def forget(self) -> None:
        """Let go of what was loaded."""
        self.__dict__.pop("encoder", None)
        self.__dict__.pop("tokenizer", None)

    def __call__(self, captions: Sequence[str], device: torch.device = CPU) -> Embeddings:
        """Those of `captions`, in fp32 on the CPU, computed on `device`; equal captions are encoded once."""
        place = {caption: index for index, caption in enumerate(dict.fromkeys(captions))}
        return Embeddings.of(list(self.rows(list(place), device))).at([place[caption] for caption in captions])

    def rows(self, captions: Sequence[str], device: torch.device = CPU) -> Iterator[Tensor]:
        """For each caption the embeddings of its tokens, (L, D) in fp32 on the CPU.

        Those of T5 are of the text alone, as `PRX` masks what fills it up; those of CLIP are all L = model.text.max_tokens, for
        Stable Diffusion does not.
        """
        chunk = captions_at_once(self._section)
        encoder = self.encoder.to(device)
        for start in range(0, len(captions), chunk):
            tokens = tokens_of(self.tokenizer, [self._clean(text) for text in captions[start : start + chunk]])
            if self._kind is FrozenKind.CLIP:
                yield from hidden_states(encoder, Tokens(tokens.ids_BL, torch.ones_like(tokens.mask_BL))).cpu()
                continue
            used_L = tokens.mask_BL.any(dim=0)
            tokens = Tokens(tokens.ids_BL[:, used_L], tokens.mask_BL[:, used_L])
            values_BLD = hidden_states(encoder, tokens).cpu()
            yield from (values_LD[mask_L] for values_LD, mask_L in zip(values_BLD, tokens.mask_BL, strict=True))


@torch.no_grad()
def hidden_states(encoder: PreTrainedModel, tokens: Tokens) -> Tensor:
    """(B, L, D), where the encoder is. A pipeline hands no mask to CLIP, whose tokens look back only."""
    device = next(encoder.parameters()).device
    mask = {} if isinstance(encoder, CLIPTextModel) else {"attention_mask": tokens.mask_BL.to(device)}
    hidden_BLD: Tensor = encoder(input_ids=tokens.ids_BL.to(device), **mask).last_hidden_state
    return hidden_BLD


def captions_at_once(section: TextEncoderSection) -> int:
    """How many are encoded together."""
    return max(1, _CHUNK_TOKENS // section.max_tokens)


def open_encoder(section: TextEncoderSection, kind: FrozenKind, dtype: torch.dtype | str) -> PreTrainedModel:
    """The encoder that `section` names, in `dtype`, or as it is stored ("auto"). Raises `ConfigError`."""
    name = section.encoder
    transformers_logging.disable_progress_bar()
    with _named(section, kind):
        _config_of(section, kind)
        encoder, found = _CLASSES[kind].from_pretrained(
            name, dtype=dtype, use_safetensors=True, output_loading_info=True, trust_remote_code=False
        )
    missing = sorted(found["missing_keys"])
    if missing:
        raise ConfigError(
            f"model.text.encoder = {name!r} lacks {len(missing)} of the weights of a {kind}, {missing[0]} for one: name another"
        )
    encoder.config._name_or_path = encoder.name_or_path = ""  # where it lay here is nobody's business
    return encoder.eval().requires_grad_(False)


def with_sizes(section: TextEncoderSection, kind: FrozenKind) -> TextEncoderSection:
    """`section` with the sizes of the encoder that it names, of which only the config.json is read. Raises `ConfigError`."""
    with _named(section, kind):
        config = _config_of(section, kind)
    return section.model_copy(update={key: getattr(config, name) for key, name in _SIZES.items()})


def config_json(section: TextEncoderSection, kind: FrozenKind) -> str:
    """What the encoder that `section` names says of itself. Raises `ConfigError`."""
    with _named(section, kind):
        text: str = _config_of(section, kind).to_json_string()
    return text


def encoder_of_shapes(kind: FrozenKind, config_json: str) -> PreTrainedModel:
    """An encoder of random weights that says `config_json` of itself: to be built under fake tensors."""
    config_class: Any = _CLASSES[kind].config_class
    return _CLASSES[kind](config_class.from_dict(json.loads(config_json))).eval()


def keep_encoder(section: TextEncoderSection, kind: FrozenKind, out: Path) -> tuple[TextEncoderSection, FrozenText]:
    """Write the encoder and the tokenizer that `section` names to the folder `out`, as a run keeps them.

    Returns `section` with the encoder's sizes in it, and what the run's specification says of it. Raises `ConfigError`,
    `StorageError`.
    """
    section = with_sizes(section, kind)
    encoder = open_encoder(section, kind, "auto")
    if section.tokenizer == OWN:
        tokenizer = tokenizer_beside(section)
    else:
        tokenizer = load_chosen_tokenizer(read_chosen_tokenizer(section), section)
    with writing_safetensors():
        encoder.save_pretrained(out, max_shard_size=_LARGEST_FILE)
        tokenizer.save_pretrained(out)
    try:
        text = FrozenText(
            kind=kind,
            digest=weights_digest(encoder),
            config_json=(out / CONFIG_NAME).read_text(encoding="utf-8"),
            files=tuple(_entry(path) for path in sorted(out.iterdir())),
        )
    except ValidationError as error:
        raise ConfigError(
            f"model.text.encoder = {section.encoder!r} does not do ({first_mistake(error)}): name another one"
        ) from None
    return section, text


@contextmanager
def _named(section: TextEncoderSection, kind: FrozenKind) -> Iterator[None]:
    """Within, whatever is wrong with the files of the encoder is a `ConfigError` that names it."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(
            f"model.text.encoder = {section.encoder!r} cannot be loaded ({(str(error).splitlines() or [''])[0]}): name a folder "
            f"or a hub id of a {kind} in safetensors"
        ) from None


def _config_of(section: TextEncoderSection, kind: FrozenKind) -> PreTrainedConfig:
    """What the encoder says of itself. Raises `ConfigError` if it is of another kind, or `section` gives other sizes."""
    folder = Path(section.encoder)
    if (folder.is_absolute() or folder.is_dir()) and not (folder / CONFIG_NAME).is_file():
        raise ConfigError(
            f"model.text.encoder: {folder / CONFIG_NAME} does not exist: name a folder or a hub id of a {kind}"
        )
    model_type = PreTrainedConfig.get_config_dict(section.encoder)[0].get("model_type")
    if model_type not in _MODEL_TYPES[kind]:
        raise ConfigError(
            f"model.text.encoder = {section.encoder!r} is a model of type {model_type}: name one of a {kind}"
        )
    config_class: Any = _CLASSES[kind].config_class
    config = config_class.from_pretrained(section.encoder)
    for key, name in _SIZES.items():
        given, real = getattr(section, key), getattr(config, name)
        if key in section.model_fields_set and given != real:
            raise ConfigError(
                f"model.text.{key} = {given}, but model.text.encoder = {section.encoder!r} has {real}: leave model.text.{key} out"
            )
    most = getattr(config, "max_position_embeddings", section.max_tokens)
    if section.max_tokens > most:
        raise ConfigError(
            f"model.text.max_tokens = {section.max_tokens}, but model.text.encoder = {section.encoder!r} takes {most} at most: "
            "lower model.text.max_tokens"
        )
    return config


def _entry(path: Path) -> EncoderFile:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return EncoderFile(name=path.name, sha256=sha256, size_bytes=path.stat().st_size)
