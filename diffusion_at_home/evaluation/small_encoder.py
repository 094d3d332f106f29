"""The encoder that is trained here on the data set itself, and its two files, read as if an enemy had made them.

`encoder.json` says what it is and the sha256 of `encoder.safetensors`, so its own sha256 names the whole encoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from diffusion_at_home.config.toml import Section, first_mistake
from diffusion_at_home.errors import DataError, storage_errors
from diffusion_at_home.evaluation.encoder_training import STEPS, train_network
from diffusion_at_home.evaluation.features import ENCODER_NAME, Encoder
from diffusion_at_home.evaluation.small_network import SmallNetwork

WEIGHTS_NAME: Final = "encoder.safetensors"
_MAX_JSON_BYTES: Final = 64 * 2**10
_MAX_WEIGHTS_BYTES: Final = 16 * 2**20
_REMEDY: Final = "delete the folder, and it is trained anew"


class EncoderFacts(Section):
    """The .json of an encoder."""

    format: Literal[1] = 1
    """Of both files."""
    kind: Literal["small"] = "small"
    """`SmallNetwork`."""
    side: Annotated[int, Field(ge=8, le=512)]
    """Of the pictures it takes (pixels)."""
    data: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """`DataManifest.digest` of what it was trained on."""
    pictures: Annotated[int, Field(gt=1)]
    """How many of them it saw."""
    steps: Annotated[int, Field(gt=0)]
    """Training steps."""
    seed: Annotated[int, Field(ge=0)]
    """Of weights and views."""
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the whole file (hex)."""


class SmallEncoder(Encoder):
    """A trained `SmallNetwork` for RGB pictures."""

    def __init__(self, facts: EncoderFacts, network: SmallNetwork) -> None:
        self.facts = facts
        self.name = f"small convolutional network, {facts.side} px, trained on {facts.data[:12]}"
        self.sha256 = hashlib.sha256(_json(facts)).hexdigest()
        self.side = facts.side
        self._network = network

    @classmethod
    def train(
        cls,
        pictures_NCSS: Tensor,
        data: str,
        *,
        seed: int = 0,
        steps: int = STEPS,
        tell: Callable[[str, int, int], None] = lambda *_: None,
    ) -> SmallEncoder:
        """Train one on square RGB pictures (uint8) of the data set of digest `data`; `tell` hears of every step.

        Raises `DataError` on under two pictures.
        """
        if len(pictures_NCSS) < 2:
            raise DataError("an encoder cannot be trained on one picture: use a larger data set, or name an encoder")
        network = train_network(
            pictures_NCSS, steps=steps, seed=seed, tell=lambda done: tell("training the encoder", done, steps)
        )
        facts = EncoderFacts(
            side=pictures_NCSS.shape[-1],
            data=data,
            pictures=len(pictures_NCSS),
            steps=steps,
            seed=seed,
            weights_sha256=hashlib.sha256(save(network.state_dict())).hexdigest(),
        )
        return cls(facts, network)

    def save(self, folder: Path) -> None:
        """Write both files into `folder`, the .json last. Raises `StorageError`."""
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / WEIGHTS_NAME).write_bytes(save(self._network.state_dict()))
            temporary = folder / f"{ENCODER_NAME}.tmp"
            temporary.write_bytes(_json(self.facts))
            temporary.replace(folder / ENCODER_NAME)

    @classmethod
    def load(cls, folder: Path) -> SmallEncoder:
        """Read what `save` wrote. Raises `DataError` that names the file."""
        path = folder / ENCODER_NAME
        try:
            facts = EncoderFacts.model_validate_json(_bytes(path, _MAX_JSON_BYTES))
        except ValidationError as error:
            raise DataError(f"{path} is not an encoder's ({first_mistake(error)}): {_REMEDY}") from None
        path = folder / WEIGHTS_NAME
        data = _bytes(path, _MAX_WEIGHTS_BYTES)
        if hashlib.sha256(data).hexdigest() != facts.weights_sha256:
            raise DataError(f"{path} does not have the sha256 of {ENCODER_NAME}: {_REMEDY}")
        network = SmallNetwork(channels=3)
        try:
            weights = load(data)
        except SafetensorError as error:
            raise DataError(f"{path} is not a safetensors file ({error}): {_REMEDY}") from None
        wanted = network.state_dict()
        if {name: (t.shape, t.dtype) for name, t in weights.items()} != {
            name: (t.shape, t.dtype) for name, t in wanted.items()
        }:
            raise DataError(f"{path} holds other tensors than an encoder has: {_REMEDY}")
        if not all(tensor.isfinite().all() for tensor in weights.values()):
            raise DataError(f"{path} holds numbers that are not finite: {_REMEDY}")
        network.load_state_dict(weights)
        return cls(facts, network.eval().requires_grad_(requires_grad=False))

    def _encode(self, x_BCSS: Tensor) -> Tensor:
        features_BF: Tensor = self._network(x_BCSS)
        return features_BF


def _json(facts: EncoderFacts) -> bytes:
    return facts.model_dump_json(indent=1).encode() + b"\n"


def _bytes(path: Path, limit: int) -> bytes:
    if not path.is_file():
        raise DataError(f"{path} is missing: {_REMEDY}")
    if path.stat().st_size > limit:
        raise DataError(f"{path} has {path.stat().st_size} bytes, over the limit of {limit}: {_REMEDY}")
    return path.read_bytes()
