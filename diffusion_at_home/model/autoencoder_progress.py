"""How far the training of an autoencoder is: saved now and then, so that whoever is killed goes on where it was.

One safetensors file, all or nothing: weights, AdamW's state and the states of the random generators as tensors; as metadata,
in JSON, what is trained on what, how far it is, and the digest of it all. It is no autoencoder that anybody loads.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffusion_at_home.errors import ConfigError, DataError, storage_errors
from diffusion_at_home.outer.state import writing_safetensors
from diffusion_at_home.sync import sync_folder

_METADATA: Final = "dah"
_MOMENTS: Final = ("exp_avg", "exp_avg_sq")
"""AdamW's, of each parameter; beside them it counts the steps."""


@dataclass(slots=True)
class Moment:
    """A training between two steps."""

    autoencoder: AutoencoderKL
    optimizer: torch.optim.AdamW
    noise: torch.Generator
    """Of the latents that are drawn."""
    windows: torch.Generator
    """Of the windows that are cut out of pictures."""
    batches: int = 0
    images: int = 0
    loss: float = math.nan
    """Of the last step."""
    seconds: float = 0.0
    """That it took until here, of all processes together."""


@dataclass(frozen=True, slots=True)
class ProgressFile:
    """Where a training is saved, and which one that must be."""

    path: Path
    pictures: str
    """Digest of the data set's manifest."""
    settings: Mapping[str, Any]
    """As JSON has them."""

    def save(self, moment: Moment) -> None:
        """Replace what was saved, durably. Raises `StorageError`."""
        tensors = _tensors(moment)
        facts: dict[str, Any] = {
            "pictures": self.pictures,
            "settings": self.settings,
            "batches": moment.batches,
            "images": moment.images,
            "loss": moment.loss,
            "seconds": moment.seconds,
        }
        facts["sha256"] = _digest(facts, tensors)
        temporary = self.path.with_suffix(".tmp")
        with storage_errors(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with writing_safetensors():
                save_file(tensors, temporary, metadata={_METADATA: json.dumps(facts)})
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(self.path)
        sync_folder(self.path.parent)

    def restore(self, moment: Moment) -> bool:
        """Bring a `moment` that has not begun to where it was saved; False if nothing was.

        Raises `ConfigError` if another training was saved there, `DataError` if what was is damaged.
        """
        if not self.path.is_file():
            return False
        try:
            with safe_open(self.path, framework="pt") as file:
                facts = json.loads(file.metadata()[_METADATA])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- it is no mapping
            if _digest(facts, tensors) != facts.pop("sha256"):
                raise ValueError("its digest is another one")
            if difference := self._difference(facts):
                raise ConfigError(
                    f"{self.path} was saved by a training with {difference}: start it again as it was, or delete that file"
                )
            _restore(moment, tensors)
            moment.batches, moment.images = facts["batches"], facts["images"]
            moment.loss, moment.seconds = facts["loss"], facts["seconds"]
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"{self.path} is damaged ({error}): delete it and train again") from None
        return True

    def forget(self) -> None:
        """It is not needed any more; may be called again."""
        for path in (self.path, self.path.with_suffix(".tmp")):
            path.unlink(missing_ok=True)

    def _difference(self, facts: Mapping[str, Any]) -> str:
        """What sets the training of `facts` apart from this one, in words; empty if nothing does."""
        if facts["pictures"] != self.pictures:
            return "other pictures"
        before, now = facts["settings"], self.settings
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        return f"{keys[0]} = {before.get(keys[0])} instead of {now.get(keys[0])}" if keys else ""


def _tensors(moment: Moment) -> dict[str, Tensor]:
    """All that the next step depends on, on the CPU and contiguous."""
    found = {f"weights.{name}": tensor for name, tensor in moment.autoencoder.state_dict().items()}
    for index, state in moment.optimizer.state_dict()["state"].items():
        found |= {f"adamw.{index}.{key}": state[key] for key in ("step", *_MOMENTS)}
    found |= {"noise": moment.noise.get_state(), "windows": moment.windows.get_state()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}


def _restore(moment: Moment, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in moment.autoencoder.state_dict().items():
        tensor.copy_(tensors[f"weights.{name}"])
    state = {
        # Strided as the parameter, for how a tensor lies in memory decides which of its elements are rounded together.
        index: {key: torch.empty_like(parameter).copy_(tensors[f"adamw.{index}.{key}"]) for key in _MOMENTS}
        | {"step": tensors[f"adamw.{index}.step"]}
        for index, parameter in enumerate(moment.autoencoder.parameters())
    }
    moment.optimizer.load_state_dict({**moment.optimizer.state_dict(), "state": state})
    moment.noise.set_state(tensors["noise"])
    moment.windows.set_state(tensors["windows"])


def _digest(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """sha256 (hex) of all facts but this one, and of the tensors' names and bytes."""
    others = {name: fact for name, fact in facts.items() if name != "sha256"}
    sha256 = hashlib.sha256(json.dumps(others, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        sha256.update(f"\n{name} {list(tensor.shape)}\n".encode())
        sha256.update(tensor.numpy().data)
    return sha256.hexdigest()
