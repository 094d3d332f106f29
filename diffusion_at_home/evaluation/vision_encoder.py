"""Any vision model that transformers loads (CLIP, SigLIP, DINOv2, ViT, ...) as an encoder, from a folder on this machine.

Owns what is asked of transformers. Weights are safetensors and code is transformers' own: a folder of pickles or one that
brings code is refused.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import torch
import transformers.utils.logging as transformers_logging
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModel

from diffusion_at_home.errors import DataError
from diffusion_at_home.evaluation.features import Encoder

_REMEDY: Final = "name a folder with config.json and model.safetensors of a vision model"
_HALF: Final = (0.5, 0.5, 0.5)
_MAX_JSON_BYTES: Final = 2**20
_MAX_SIDE: Final = 1024
_LOADING_ERRORS: Final = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    ImportError,
    SafetensorError,
)
"""What transformers raises on a folder that it does not know, depending on where it stumbles."""


class VisionEncoder(Encoder):
    """The pooled output of a pretrained vision model. Raises `DataError` if `folder` holds none."""

    def __init__(self, folder: Path) -> None:
        config = _json(folder / "config.json")
        if not isinstance(config.get("model_type"), str):
            raise DataError(f"{folder / 'config.json'} names no model_type: {_REMEDY}")
        self.name = f"{config['model_type']} in {folder.name}"
        self.sha256 = _digest(folder)
        transformers_logging.disable_progress_bar()
        try:
            model, found = AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
        except _LOADING_ERRORS as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"{folder} is not a vision model that transformers loads ({reason}): {_REMEDY}") from None
        # What a folder lacks would be drawn at random. Classifiers often come without a pooler.
        missing = sorted(key for key in found["missing_keys"] if "pooler" not in key)
        if missing:
            raise DataError(f"{folder} lacks the weights {missing[0]}: {_REMEDY}")
        self._model = model.eval()
        self._has_pooler = not found["missing_keys"]
        vision = getattr(self._model.config, "vision_config", self._model.config)
        side = getattr(vision, "image_size", None)
        if not isinstance(side, int) or not 8 <= side <= _MAX_SIDE:
            raise DataError(f"{folder / 'config.json'} says no image_size up to {_MAX_SIDE}: {_REMEDY}")
        self.side = side
        processor = folder / "preprocessor_config.json"
        facts = _json(processor) if processor.is_file() else {}
        self._mean_311 = _channels(facts, "image_mean", processor)
        self._std_311 = _channels(facts, "image_std", processor)

    def _encode(self, x_BCSS: Tensor) -> Tensor:
        pixels_BCSS = ((x_BCSS + 1) / 2 - self._mean_311) / self._std_311
        if hasattr(self._model, "get_image_features"):  # a model of pictures and text
            found = self._model.get_image_features(pixel_values=pixels_BCSS)
        else:
            found = self._model(pixel_values=pixels_BCSS)
        if isinstance(found, Tensor):
            return found
        pooled = getattr(found, "pooler_output", None) if self._has_pooler else None
        features: Tensor = found.last_hidden_state.mean(dim=1) if pooled is None else pooled
        return features.flatten(1)


def _channels(facts: dict[str, Any], key: str, path: Path) -> Tensor:
    values = facts.get(key, _HALF)
    try:
        channels = torch.tensor(values, dtype=torch.float32).reshape(3, 1, 1)
    except (TypeError, ValueError, RuntimeError):
        raise DataError(f"{path}: {key} must be three numbers") from None
    if not channels.isfinite().all() or (key == "image_std" and not (channels > 0).all()):
        raise DataError(f"{path}: {key} must be three numbers that can be used")
    return channels


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file() or path.stat().st_size > _MAX_JSON_BYTES:
        raise DataError(f"{path} is missing or too large: {_REMEDY}")
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}): {_REMEDY}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path} is not a model's configuration: {_REMEDY}")
    return found


def _digest(folder: Path) -> str:
    """sha256 (hex) of the names and sha256 of all files that the features depend on."""
    names = ("config.json", "preprocessor_config.json")
    files = sorted(path for path in folder.iterdir() if path.suffix == ".safetensors" or path.name in names)
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            total.update(f"{path.name}\n{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()
