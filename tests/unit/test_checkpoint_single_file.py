"""The single file has the names and shapes that loaders of Stable Diffusion 1.5 expect, and the same weights.

The judge of the names is diffusers, which converts original files into its own; the list that they are compared with besides is
made from the original code's own numbering.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    infer_diffusers_model_type,
)
from safetensors import safe_open
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from diffusion_at_home.checkpoint.single_file import obstacle, original_state, write_single_file
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.config.toml import load_toml
from diffusion_at_home.model.build import build_model
from diffusion_at_home.model.text import load_tokenizer
from tests.unit.tiny_families import UNET, family_overrides, save_autoencoder
from tests.unit.tiny_run import REPOSITORY, tiny_config, tiny_model, tiny_tokenizer

Networks = tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel]


def autoencoder_of(*channels: int, **changes: object) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=list(channels),
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        latent_channels=4,
        **{"layers_per_block": 2, "norm_num_groups": min(32, channels[0]), **changes},
    )


def sd15(*overrides: str) -> RunConfig:
    return load_toml(REPOSITORY / "configs" / "sd-unet.toml", RunConfig, overrides)


@pytest.fixture(scope="module")
def full() -> Networks:
    """Stable Diffusion 1.5's shapes, without weights."""
    config = sd15()
    with torch.device("meta"):
        text_encoder = CLIPTextModel(
            CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
        )
        unet = UNet2DConditionModel(
            sample_size=64, block_out_channels=config.model.unet.channels, cross_attention_dim=768, attention_head_dim=8
        )
        return unet, autoencoder_of(128, 256, 512, 512), text_encoder


@pytest.fixture(scope="module")
def small() -> Networks:
    """The same parts, narrow, with weights that are all different."""
    unet = UNet2DConditionModel(
        block_out_channels=(8, 8, 16, 16), cross_attention_dim=8, attention_head_dim=2, norm_num_groups=4
    )
    text = CLIPTextConfig(
        vocab_size=20, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    return unet, autoencoder_of(8, 8, 8, 8), CLIPTextModel(text)


def residual(name: str, before: int, after: int, *, shortcut: bool, time: bool) -> dict[str, tuple[int, ...]]:
    """Of one residual block, by the names of the U-Net (with `time`) or of the autoencoder."""
    names = ("in_layers.0", "in_layers.2", "out_layers.0", "out_layers.3", "skip_connection")
    if not time:
        names = ("norm1", "conv1", "norm2", "conv2", "nin_shortcut")
    shapes = [(before,), (after, before, 3, 3), (after,), (after, after, 3, 3), (after, before, 1, 1)]
    found = dict(zip(names, shapes, strict=True))
    if not shortcut:
        del found[names[-1]]
    if time:
        found["emb_layers.1"] = (after, 1280)
    return {f"{name}.{part}": shape for part, shape in found.items()}


def transformer(name: str, width: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        "norm": (width,),
        "proj_in": (width, width, 1, 1),
        "proj_out": (width, width, 1, 1),
    }
    block = "transformer_blocks.0"
    for attention, context in (("attn1", width), ("attn2", 768)):
        found[f"{block}.{attention}.to_q*"] = (width, width)
        found[f"{block}.{attention}.to_k*"] = found[f"{block}.{attention}.to_v*"] = (width, context)
        found[f"{block}.{attention}.to_out.0"] = (width, width)
    found[f"{block}.ff.net.0.proj"] = (8 * width, width)
    found[f"{block}.ff.net.2"] = (width, 4 * width)
    found |= {f"{block}.norm{index}": (width,) for index in (1, 2, 3)}
    return {f"{name}.{part}": shape for part, shape in found.items()}


def with_biases(layers: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """A weight and a bias of each layer, but no bias where the name ends in *."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in layers.items():
        found[f"{name.removesuffix('*')}.weight"] = shape
        if not name.endswith("*"):
            found[f"{name}.bias"] = shape[:1]
    return found


def original_unet() -> dict[str, tuple[int, ...]]:
    """As the original constructor numbers its blocks: down, middle, and up with what was kept on the way down."""
    found: dict[str, tuple[int, ...]] = {"time_embed.0": (1280, 320), "time_embed.2": (1280, 1280)}
    found["input_blocks.0.0"] = (320, 4, 3, 3)
    kept, number, width = [320], 1, 320
    for stage, wanted in enumerate((320, 640, 1280, 1280)):
        for _ in range(2):
            found |= residual(f"input_blocks.{number}.0", width, wanted, shortcut=width != wanted, time=True)
            width = wanted
            if stage < 3:
                found |= transformer(f"input_blocks.{number}.1", width)
            kept.append(width)
            number += 1
        if stage < 3:
            found[f"input_blocks.{number}.0.op"] = (width, width, 3, 3)
            kept.append(width)
            number += 1
    for index in (0, 2):
        found |= residual(f"middle_block.{index}", width, width, shortcut=False, time=True)
    found |= transformer("middle_block.1", width)
    number = 0
    for stage, wanted in reversed(list(enumerate((320, 640, 1280, 1280)))):
        for block in range(3):
            found |= residual(f"output_blocks.{number}.0", width + kept.pop(), wanted, shortcut=True, time=True)
            width = wanted
            if stage < 3:
                found |= transformer(f"output_blocks.{number}.1", width)
            if stage and block == 2:
                found[f"output_blocks.{number}.{2 if stage < 3 else 1}.conv"] = (width, width, 3, 3)
            number += 1
    return with_biases(found | {"out.0": (320,), "out.2": (4, 320, 3, 3)})


def original_autoencoder() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"quant_conv": (8, 8, 1, 1), "post_quant_conv": (4, 4, 1, 1)}
    found |= {"encoder.conv_in": (128, 3, 3, 3), "decoder.conv_in": (512, 4, 3, 3)}
    found |= {"encoder.norm_out": (512,), "decoder.norm_out": (128,)}
    found |= {"encoder.conv_out": (8, 512, 3, 3), "decoder.conv_out": (3, 128, 3, 3)}
    for half in ("encoder", "decoder"):
        for index in (1, 2):
            found |= residual(f"{half}.mid.block_{index}", 512, 512, shortcut=False, time=False)
        found[f"{half}.mid.attn_1.norm"] = (512,)
        found |= {f"{half}.mid.attn_1.{part}": (512, 512, 1, 1) for part in ("q", "k", "v", "proj_out")}
    widths, width = (128, 256, 512, 512), 128
    for stage, wanted in enumerate(widths):
        for block in range(2):
            found |= residual(
                f"encoder.down.{stage}.block.{block}", width, wanted, shortcut=width != wanted, time=False
            )
            width = wanted
        if stage < 3:
            found[f"encoder.down.{stage}.downsample.conv"] = (width, width, 3, 3)
    for stage, wanted in reversed(list(enumerate(widths))):
        for block in range(3):
            found |= residual(f"decoder.up.{stage}.block.{block}", width, wanted, shortcut=width != wanted, time=False)
            width = wanted
        if stage:
            found[f"decoder.up.{stage}.upsample.conv"] = (width, width, 3, 3)
    return with_biases(found)


def original_text() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"final_layer_norm": (768,)}
    found |= {"embeddings.token_embedding*": (49408, 768), "embeddings.position_embedding*": (77, 768)}
    for layer in range(12):
        name = f"encoder.layers.{layer}"
        found |= {f"{name}.self_attn.{part}_proj": (768, 768) for part in ("q", "k", "v", "out")}
        found |= {f"{name}.layer_norm1": (768,), f"{name}.layer_norm2": (768,)}
        found |= {f"{name}.mlp.fc1": (3072, 768), f"{name}.mlp.fc2": (768, 3072)}
    return with_biases(found) | {"embeddings.position_ids": (1, 77)}


@pytest.mark.parametrize(
    ("prefix", "wanted", "count"),
    [
        ("model.diffusion_model.", original_unet, 686),
        ("first_stage_model.", original_autoencoder, 248),
        ("cond_stage_model.transformer.text_model.", original_text, 197),
    ],
)
def test_names_and_shapes_are_those_of_the_original(full: Networks, prefix: str, wanted: object, count: int) -> None:
    assert callable(wanted)
    state = original_state(*full)
    found = {
        name.removeprefix(prefix): tuple(tensor.shape) for name, tensor in state.items() if name.startswith(prefix)
    }
    assert found == wanted()
    assert len(found) == count
    assert len(state) == 686 + 248 + 197


def test_diffusers_takes_it_for_stable_diffusion_1(full: Networks) -> None:
    assert infer_diffusers_model_type(original_state(*full)) == "v1"


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_diffusers_converts_it_back_to_the_same_weights(small: Networks) -> None:
    unet, autoencoder, text_encoder = small
    state = original_state(*small)
    assert same(convert_ldm_unet_checkpoint(dict(state), unet.config), unet.state_dict())
    assert same(convert_ldm_vae_checkpoint(dict(state), autoencoder.config), autoencoder.state_dict())
    text = {name.removeprefix("text_model."): tensor for name, tensor in convert_ldm_clip_checkpoint(state).items()}
    del text["embeddings.position_ids"]
    assert same(text, {name.removeprefix("text_model."): t for name, t in text_encoder.state_dict().items()})


def test_the_file_has_half_precision_and_says_how_to_draw_with_it(tmp_path: Path) -> None:
    save_autoencoder(tmp_path / "autoencoder")
    model = tiny_model(tiny_config(*family_overrides(UNET, tmp_path / "autoencoder")))
    pipeline = model.pipeline()
    write_single_file(pipeline, tmp_path / "x.safetensors", "squares")
    wanted = original_state(pipeline.unet, pipeline.vae, pipeline.text_encoder)
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata()["title"] == "squares"
        assert "ModelSamplingSD3" in file.metadata()["usage"]
        assert set(file.keys()) == set(wanted)
        for name in file.keys():  # noqa: SIM118 -- not a dict
            found = file.get_tensor(name)
            assert found.dtype == (torch.int64 if name.endswith("position_ids") else torch.float16)
            assert torch.equal(found, wanted[name].to(found.dtype))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.kind='prx'"], "of another"),
        (["model.unet.layers=1"], "U-Net does not have"),
        (["model.unet.channels=[320, 640, 1280]"], "U-Net does not have"),
        (["model.text.layers=6"], "text encoder does not have"),
        (["model.text.max_tokens=64"], "text encoder does not have"),
        ([], "model.text.tokenizer chooses"),
    ],
)
def test_what_they_could_not_read_is_not_written_and_why(full: Networks, overrides: list[str], said: str) -> None:
    config = sd15(*overrides).model
    tokenizer = load_tokenizer(tiny_tokenizer(tiny_config()), config.text)
    assert said in (obstacle(config, tokenizer, full[1]) or "")


def test_an_autoencoder_of_another_shape_is_said() -> None:
    config = sd15().model
    tokenizer = load_tokenizer(tiny_tokenizer(tiny_config()), config.text)
    with torch.device("meta"):
        others = [autoencoder_of(64, 256, 512, 512), autoencoder_of(128, 256, 512, 512, use_quant_conv=False)]
    for other in others:
        assert "the autoencoder does not have" in (obstacle(config, tokenizer, other) or "")


def test_the_shipped_config_is_of_that_shape(full: Networks) -> None:
    config = sd15().model
    with torch.device("meta"):
        model = build_model(config, sd15().objective, tiny_tokenizer(tiny_config()), seed=0)
    ours = {name: tuple(parameter.shape) for name, parameter in model.named_parameters() if name.startswith("unet.")}
    assert ours == {f"unet.{name}": tuple(parameter.shape) for name, parameter in full[0].named_parameters()}
