"""One file for A1111 and ComfyUI: the weights under the names that Stable Diffusion 1.x's original code gave them.

Both programs recognize a model by these names and shapes, so only the exact shape of Stable Diffusion 1.5 is written, and only
with CLIP's vocabulary, which they bring themselves. The names are those of github.com/CompVis/stable-diffusion
(`openaimodel.py`, `model.py`), in which a stage of a network is a run of numbered blocks.

A row of a table is a pattern of a diffusers name and what takes its place, with {n} for a number made of the pattern's groups.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from diffusion_at_home.config.run import LatentsSection, ModelKind, ModelSection, TextEncoderSection, UNetSection
from diffusion_at_home.model.chosen_tokenizer import is_clip_tokenizer

HOW_TO_DRAW: Final = (
    "It follows a rectified flow, which the file itself cannot say: in ComfyUI, put the node ModelSamplingSD3 with shift 1.0 "
    "between loader and sampler. A1111 loads it, but has no sampler of its own for a flow of this shape"
)

_UNET: Final = "model.diffusion_model."
_AUTOENCODER: Final = "first_stage_model."
_TEXT: Final = "cond_stage_model.transformer.text_model."

_AUTOENCODER_CHANNELS: Final = (128, 256, 512, 512)
_TEXT_SHAPE: Final = TextEncoderSection(vocab_size=49_408, hidden_size=768, layers=12, heads=12, max_tokens=77)


class _Row(NamedTuple):
    """Names that match `pattern` become `name`, in which {n} is `number` of the pattern's groups."""

    pattern: str
    name: str
    number: Callable[..., int] = lambda *_: 0


def _unet_rows(layers: int) -> tuple[_Row, ...]:
    """For `layers` residual blocks of each resolution on the way down, one more on the way up."""
    stage = layers + 1  # on the way down its blocks and the halving, on the way up its blocks
    return (
        _Row(r"time_embedding\.linear_(\d)", "time_embed.{n}", lambda linear: 2 * (linear - 1)),
        _Row(r"conv_in", "input_blocks.0.0"),
        _Row(r"down_blocks\.(\d)\.resnets\.(\d)", "input_blocks.{n}.0", lambda i, j: 1 + i * stage + j),
        _Row(r"down_blocks\.(\d)\.attentions\.(\d)", "input_blocks.{n}.1", lambda i, j: 1 + i * stage + j),
        _Row(r"down_blocks\.(\d)\.downsamplers\.0\.conv", "input_blocks.{n}.0.op", lambda i: (i + 1) * stage),
        _Row(r"mid_block\.resnets\.(\d)", "middle_block.{n}", lambda i: 2 * i),
        _Row(r"mid_block\.attentions\.0", "middle_block.1"),
        _Row(r"up_blocks\.(\d)\.resnets\.(\d)", "output_blocks.{n}.0", lambda i, j: i * stage + j),
        _Row(r"up_blocks\.(\d)\.attentions\.(\d)", "output_blocks.{n}.1", lambda i, j: i * stage + j),
        # The doubling is the last part of its block: after the residual part and, but for the lowest stage, the attention.
        _Row(r"up_blocks\.0\.upsamplers\.0\.conv", "output_blocks.{n}.1.conv", lambda: layers),
        _Row(r"up_blocks\.(\d)\.upsamplers\.0\.conv", "output_blocks.{n}.2.conv", lambda i: i * stage + layers),
        _Row(r"conv_norm_out", "out.0"),
        _Row(r"conv_out", "out.2"),
    )


_UNET_RESIDUAL: Final = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def _autoencoder_rows(stages: int) -> tuple[_Row, ...]:
    """For `stages` resolutions, which the decoder counts from the finest, too."""
    return (
        _Row(r"((?:post_)?quant_conv)", r"\1"),
        _Row(r"((?:en|de)coder\.conv_(?:in|out))", r"\1"),
        _Row(r"((?:en|de)coder)\.conv_norm_out", r"\1.norm_out"),
        _Row(r"((?:en|de)coder)\.mid_block\.resnets\.0", r"\1.mid.block_1"),
        _Row(r"((?:en|de)coder)\.mid_block\.resnets\.1", r"\1.mid.block_2"),
        _Row(r"((?:en|de)coder)\.mid_block\.attentions\.0", r"\1.mid.attn_1"),
        _Row(r"encoder\.down_blocks\.(\d)\.resnets\.(\d)", r"encoder.down.\1.block.\2"),
        _Row(r"encoder\.down_blocks\.(\d)\.downsamplers\.0\.conv", r"encoder.down.\1.downsample.conv"),
        _Row(r"decoder\.up_blocks\.(\d)\.resnets\.(\d)", r"decoder.up.{n}.block.\2", lambda i, _: stages - 1 - i),
        _Row(
            r"decoder\.up_blocks\.(\d)\.upsamplers\.0\.conv", "decoder.up.{n}.upsample.conv", lambda i: stages - 1 - i
        ),
    )


_AUTOENCODER_RESIDUAL: Final = {"conv_shortcut": "nin_shortcut"}
_AUTOENCODER_ATTENTION: Final = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def obstacle(config: ModelSection, tokenizer: PreTrainedTokenizerFast, autoencoder: AutoencoderKL | None) -> str | None:
    """Why a model cannot be one file that A1111 and ComfyUI read, in words that follow "because"; None if it can."""
    if config.kind is not ModelKind.UNET or autoencoder is None:
        return "they read Stable Diffusion's families, and this model is of another"
    if config.unet != UNetSection() or config.latents.channels != LatentsSection().channels:
        return "the U-Net does not have the shape of Stable Diffusion 1.5"
    blocks, layers = tuple(autoencoder.config.block_out_channels), autoencoder.config.layers_per_block
    if (
        blocks != _AUTOENCODER_CHANNELS
        or layers != 2
        or autoencoder.quant_conv is None
        or autoencoder.post_quant_conv is None
    ):
        return "the autoencoder does not have the shape of Stable Diffusion 1.5's"
    given = config.text.model_copy(update={"encoder": _TEXT_SHAPE.encoder, "tokenizer": _TEXT_SHAPE.tokenizer})
    if given != _TEXT_SHAPE:
        return "the text encoder does not have the shape of Stable Diffusion 1.5's"
    if not is_clip_tokenizer(tokenizer):
        return "they bring CLIP's vocabulary, and the run has another: model.text.tokenizer chooses"
    return None


def write_single_file(pipeline: StableDiffusionPipeline, path: Path, title: str) -> None:
    """Write the networks of `pipeline` in fp16 to the safetensors file `path`."""
    halves = {
        name: tensor.half().contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in original_state(pipeline.unet, pipeline.vae, pipeline.text_encoder).items()
    }
    save_file(halves, path, metadata={"format": "pt", "title": title, "usage": HOW_TO_DRAW})


def original_state(
    unet: UNet2DConditionModel, autoencoder: AutoencoderKL, text_encoder: CLIPTextModel
) -> dict[str, Tensor]:
    """The networks' weights under their original names, not copied; `autoencoder` must have Stable Diffusion's scale."""
    state: dict[str, Tensor] = {}
    rows = _unet_rows(unet.config.layers_per_block)
    for name, tensor in unet.state_dict().items():
        state[_UNET + _renamed(name, rows, {"resnets": _UNET_RESIDUAL})] = tensor
    rows = _autoencoder_rows(len(autoencoder.config.block_out_channels))
    inner = {"resnets": _AUTOENCODER_RESIDUAL, "attentions": _AUTOENCODER_ATTENTION}
    for name, tensor in autoencoder.state_dict().items():
        # The original attends with 1 x 1 convolutions.
        is_matrix = ".attentions." in name and tensor.ndim == 2
        state[_AUTOENCODER + _renamed(name, rows, inner)] = tensor[:, :, None, None] if is_matrix else tensor
    for name, tensor in text_encoder.state_dict().items():
        state[_TEXT + name.removeprefix("text_model.")] = tensor
    length = text_encoder.config.max_position_embeddings
    state[_TEXT + "embeddings.position_ids"] = torch.arange(length)[None]  # int64: older loaders read them
    return state


def _renamed(name: str, rows: tuple[_Row, ...], inner: dict[str, dict[str, str]]) -> str:
    """`name` by the row whose pattern it begins with; within the parts that `inner` names, by its tables too."""
    for row in rows:
        found = re.match(row.pattern + r"\.", name)
        if found is None:
            continue
        number = row.number(*(int(group) for group in found.groups() if group.isdigit()))
        head = found.expand(row.name).replace("{n}", str(number))
        rest = name[found.end() :]
        table = next((table for part, table in inner.items() if f".{part}." in found[0]), {})
        for old, new in table.items():
            if rest.startswith(f"{old}."):
                rest = new + rest[len(old) :]
                break
        return f"{head}.{rest}"
    raise AssertionError(f"{name} has no original name")
