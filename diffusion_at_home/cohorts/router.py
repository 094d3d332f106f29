"""The router: which cohort a noisy picture comes from, p(k | x_t, t, caption). A small model of the experts' own family.

Its folder holds `transformer`, `text_encoder` and `tokenizer` as diffusers saves them, and `router.json`.

Shapes: B pictures, K cohorts, C channels, H height, W width.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError
from torch import Tensor

from diffusion_at_home.checkpoint.older_readers import for_transformers_4
from diffusion_at_home.cohorts.description import MOST_COHORTS, Cohorts, Digest
from diffusion_at_home.cohorts.pipeline import read_logits
from diffusion_at_home.config.run import ModelKind, RunConfig
from diffusion_at_home.config.toml import Section, first_mistake
from diffusion_at_home.config.values import Count, Layers, Positive, Rate, Size
from diffusion_at_home.errors import ConfigError, DataError, storage_errors
from diffusion_at_home.model.base import DiffusionModel, Text
from diffusion_at_home.model.build import build_model
from diffusion_at_home.sync import sync_all, sync_folder

ROUTER_NAME: Final = "router.json"

_KEPT: Final = ("transformer", "text_encoder", "tokenizer")
_MAX_BYTES: Final = 2**20
_REMEDY: Final = "train the router again with `dah cohorts train-router`"


class RouterSettings(Section):
    """How a router is made."""

    images: Positive = 200_000
    """Images that it is trained on."""
    batch_images: Size = 64
    """Images in one step."""
    learning_rate: Rate = 1e-3
    """Peak (per step); half a cosine leads to 0."""
    hidden_size: Size = 96
    """Width of its transformer (features)."""
    depth: Layers = 2
    """Transformer blocks."""
    heads: Size = 4
    """Attention heads; hidden_size / heads must be a multiple of 4."""
    text_hidden_size: Size = 64
    """Width of its text encoder (features)."""
    text_layers: Layers = 1
    """Layers of its text encoder."""
    text_heads: Size = 2
    """Attention heads of its text encoder."""
    seed: Count = 0
    """Of weights, order and noise."""


class RouterFacts(Section):
    """`router.json`."""

    format: Literal[1] = 1
    """Of this file."""
    data: Digest
    """Digest of the data set that was cut."""
    data_name: str
    """Its name."""
    cohorts: Annotated[tuple[Digest, ...], Field(min_length=2, max_length=MOST_COHORTS)]
    """Digest of each cohort's data set, in the order of the router's numbers."""
    settings: RouterSettings
    """As it was trained."""
    times: tuple[float, ...]
    """At which it was tested: 0 is the picture, 1 is noise."""
    accuracy: tuple[float, ...]
    """Share of held-out pictures whose cohort it finds likeliest, with their captions, by time."""
    accuracy_without_caption: tuple[float, ...]
    """The same with the empty caption."""
    chance: float
    """The share of the largest cohort among held-out pictures: what always naming it would get."""

    @classmethod
    def load(cls, folder: Path) -> RouterFacts:
        """That of the router in `folder`. Raises `DataError`."""
        path = folder / ROUTER_NAME
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path} does not exist, or is none: {_REMEDY}")
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise DataError(f"{path} is not a router's ({first_mistake(error)}): {_REMEDY}") from None


def build_router(config: RunConfig, settings: RouterSettings, tokenizer_json: bytes) -> DiffusionModel:
    """A router of random weights for experts of `config`. Raises `ConfigError` if there is no pipeline for them."""
    check_family(config)
    shape = {"hidden_size": settings.hidden_size, "depth": settings.depth, "heads": settings.heads}
    prx = config.model.prx.model_validate({**config.model.prx.model_dump(), **shape})
    own = {"hidden_size": settings.text_hidden_size, "layers": settings.text_layers, "heads": settings.text_heads}
    text = config.model.text.model_copy(update=own)
    model = config.model.model_copy(update={"prx": prx, "text": text})
    return build_model(model, config.objective, tokenizer_json, settings.seed)


def check_family(config: RunConfig) -> None:
    """Raise `ConfigError` if there is no pipeline for cohorts of `config`."""
    model = config.model
    if model.kind is not ModelKind.PRX or model.in_latents or model.text.frozen:
        raise ConfigError(
            "cohorts are for model.kind = 'prx' in pixels with a text encoder of its own: leave model.latents.autoencoder and "
            "model.text.encoder out"
        )


def route(router: DiffusionModel, x_BCHW: Tensor, t_B: Tensor, text: Text, num_cohorts: int) -> Tensor:
    """Unnormalised log p(k | x_t, t, caption), fp32 (B, K)."""
    return read_logits(router(x_BCHW, t_B, text).float(), num_cohorts)


def facts_of(
    cohorts: Cohorts, settings: RouterSettings, accuracies: dict[float, tuple[float, float]], chance: float
) -> RouterFacts:
    """What is known of a router of `cohorts`; `accuracies` by time, with captions and without."""
    return RouterFacts(
        data=cohorts.data,
        data_name=cohorts.data_name,
        cohorts=tuple(cohort.digest for cohort in cohorts.cohorts),
        settings=settings,
        times=tuple(accuracies),
        accuracy=tuple(with_caption for with_caption, _ in accuracies.values()),
        accuracy_without_caption=tuple(without for _, without in accuracies.values()),
        chance=chance,
    )


def save_router(router: DiffusionModel, facts: RouterFacts, out: Path) -> None:
    """Write the folder `out`, which must not exist; all or nothing. Raises `StorageError`."""
    draft = out.with_name(f".{out.name}.part")
    with storage_errors(out.parent):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        router.pipeline().save_pretrained(draft, safe_serialization=True)
        for_transformers_4(draft)
        for path in draft.iterdir():
            if path.name not in _KEPT:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        (draft / ROUTER_NAME).write_text(facts.model_dump_json(indent=1) + "\n", encoding="utf-8")
        sync_all(draft)
        draft.rename(out)
        sync_folder(out.parent)
