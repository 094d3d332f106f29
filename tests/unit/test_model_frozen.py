"""A pretrained text encoder beside the model: what it makes of captions, what a run keeps of it, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, CLIPConfig, CLIPModel, T5Config, T5ForConditionalGeneration

from diffusion_at_home.config.run import TextEncoderSection
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.frozen_text import FrozenKind, linked_folder
from diffusion_at_home.model.autoencoder import weights_digest
from diffusion_at_home.model.base import Embeddings
from diffusion_at_home.model.build import build_model
from diffusion_at_home.model.frozen import FrozenEncoder, keep_encoder, open_encoder, with_sizes
from diffusion_at_home.wire.layout import Layout
from tests.unit.tiny_families import FAMILIES, PIXELS
from tests.unit.tiny_run import CAPTIONS, tiny_config
from tests.unit.tiny_text_encoder import (
    HIDDEN,
    LONG_CAPTION,
    MAX_TOKENS,
    VOCABULARY,
    frozen_overrides,
    kind_of,
    save_text_encoder,
)

KINDS = list(FrozenKind)
TEXTS = [*CAPTIONS, "", LONG_CAPTION]


def section(folder: Path, **changes: object) -> TextEncoderSection:
    return TextEncoderSection.model_validate({"encoder": str(folder), "max_tokens": MAX_TOKENS} | changes)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[FrozenKind, Path]:
    """Encoders, not to be changed."""
    root = tmp_path_factory.mktemp("encoders")
    for kind in KINDS:
        save_text_encoder(root / kind, kind)
    return {kind: root / kind for kind in KINDS}


def encoder_of(folders: dict[FrozenKind, Path], kind: FrozenKind) -> FrozenEncoder:
    return FrozenEncoder(section(folders[kind]), kind, str)


@pytest.mark.parametrize("kind", KINDS)
def test_a_caption_is_what_the_encoder_says_of_it_alone(folders: dict[FrozenKind, Path], kind: FrozenKind) -> None:
    frozen = encoder_of(folders, kind)
    found = frozen(TEXTS)
    for caption, values_LD, mask_L in zip(TEXTS, found.values_BLD, found.mask_BL, strict=True):
        tokens = frozen.tokenizer(
            caption, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
        )
        with torch.no_grad():
            if kind is FrozenKind.CLIP:
                assert mask_L.all()
                naive_LD = frozen.encoder(input_ids=tokens["input_ids"]).last_hidden_state[0]
            else:
                assert int(mask_L.sum()) == int(tokens["attention_mask"].sum())
                text = tokens["input_ids"][tokens["attention_mask"].bool()][None]
                naive_LD = frozen.encoder(input_ids=text).last_hidden_state[0]
        assert torch.allclose(values_LD[mask_L], naive_LD, atol=1e-5)
        assert not values_LD[~mask_L].any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_captions_give_the_same_bits_and_equal_ones_are_encoded_once(
    folders: dict[FrozenKind, Path], kind: FrozenKind
) -> None:
    frozen, again = (encoder_of(folders, kind)(TEXTS) for _ in range(2))
    assert torch.equal(frozen.values_BLD, again.values_BLD)
    doubled = encoder_of(folders, kind)([*TEXTS, *reversed(TEXTS)])
    assert torch.equal(doubled.values_BLD[: len(TEXTS)], frozen.values_BLD)
    assert torch.equal(doubled.values_BLD[len(TEXTS) :], frozen.values_BLD.flip(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_encoder_is_no_part_of_what_is_exchanged(
    folders: dict[FrozenKind, Path], family: str, tmp_path: Path
) -> None:
    config = tiny_config(*frozen_overrides(family, folders[kind_of(family)], tmp_path), "model.text.vocab_size=300")
    model = build_model(config.model, config.objective, b"", seed=0)
    assert model.frozen is not None
    model.tokenize(CAPTIONS)  # loads it
    assert all(slot.name.startswith(("transformer.", "unet.")) for slot in Layout.of(model).slots)
    assert {name.partition(".")[0] for name, _ in model.named_modules()} <= {"", "transformer", "unet"}
    elsewhere = tiny_config(*frozen_overrides(family, tmp_path / "nowhere", tmp_path), "model.text.vocab_size=300")
    built = build_model(elsewhere.model, elsewhere.objective, b"", seed=0)
    assert Layout.of(built).digest == Layout.of(model).digest


def test_padded_embeddings_are_those_of_the_rows() -> None:
    rows = [torch.full((length, 2), float(length)) for length in (1, 3, 2)]
    text = Embeddings.of(rows)
    assert text.mask_BL.tolist() == [[True, False, False], [True] * 3, [True, True, False]]
    assert text.values_BLD[:, :, 0].tolist() == [[1, 0, 0], [3, 3, 3], [2, 2, 0]]
    assert torch.equal(text.at([2, 0]).values_BLD, text.values_BLD[[2, 0]])


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_keeps_the_encoder_as_it_is_and_says_its_sizes(
    folders: dict[FrozenKind, Path], kind: FrozenKind, tmp_path: Path
) -> None:
    kept, text = keep_encoder(section(folders[kind]), kind, tmp_path)
    assert (kept.hidden_size, kept.layers, kept.heads, kept.vocab_size) == (HIDDEN, 2, 2, VOCABULARY)
    assert text.digest == weights_digest(open_encoder(section(folders[kind]), kind, torch.float32))
    assert {file.name for file in text.files} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    by_sha256 = {file.sha256: tmp_path / file.name for file in text.files}
    with linked_folder(text.files, lambda file: by_sha256[file.sha256]) as linked:
        own = FrozenEncoder(kept.model_copy(update={"encoder": str(linked)}), kind, str)
        values = own(TEXTS).values_BLD
    assert torch.equal(values, encoder_of(folders, kind)(TEXTS).values_BLD)
    assert not any(str(folders[kind].parent).encode() in path.read_bytes() for path in tmp_path.iterdir())


def test_weights_stay_in_the_precision_in_which_they_are_stored(
    folders: dict[FrozenKind, Path], tmp_path: Path
) -> None:
    halves = open_encoder(section(folders[FrozenKind.T5]), FrozenKind.T5, torch.float32).to(torch.bfloat16)
    shutil.copytree(folders[FrozenKind.T5], tmp_path / "halves")
    halves.save_pretrained(tmp_path / "halves")
    _, text = keep_encoder(section(tmp_path / "halves"), FrozenKind.T5, tmp_path / "kept")
    stored = load_file(tmp_path / "kept" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert text.digest == weights_digest(halves)
    assert open_encoder(section(tmp_path / "kept"), FrozenKind.T5, torch.float32).dtype is torch.float32


def test_the_encoder_of_a_whole_model_is_taken_out_of_it(folders: dict[FrozenKind, Path], tmp_path: Path) -> None:
    sizes = {"vocab_size": VOCABULARY, "d_model": HIDDEN, "d_kv": 12, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    T5ForConditionalGeneration(T5Config(**sizes)).save_pretrained(tmp_path / "t5")
    vision = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 8,
        "patch_size": 4,
    }
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(tmp_path / "clip")
    for name, kind in (("t5", FrozenKind.T5), ("clip", FrozenKind.CLIP)):
        for file in folders[kind].glob("tokenizer*"):
            shutil.copy(file, tmp_path / name)
        kept, found = keep_encoder(section(tmp_path / name), kind, tmp_path / f"{name}-kept")
        assert (kept.hidden_size, kept.layers) == (HIDDEN, 1)
        names = load_file(tmp_path / f"{name}-kept" / "model.safetensors").keys()
        assert found.files
        assert not any("decoder" in weight or "vision" in weight for weight in names)


def test_a_tokenizer_named_in_the_config_takes_the_place_of_the_encoders(
    folders: dict[FrozenKind, Path], tmp_path: Path
) -> None:
    save_text_encoder(tmp_path / "bare", FrozenKind.T5, tokenizer=False)
    chosen = folders[FrozenKind.T5] / "tokenizer.json"
    kept, text = keep_encoder(section(tmp_path / "bare", tokenizer=str(chosen)), FrozenKind.T5, tmp_path / "kept")
    assert "tokenizer.json" in {file.name for file in text.files}
    own = FrozenEncoder(kept.model_copy(update={"encoder": str(tmp_path / "kept")}), FrozenKind.T5, str)
    assert (
        own.tokenizer(CAPTIONS[0])["input_ids"]
        == encoder_of(folders, FrozenKind.T5).tokenizer(CAPTIONS[0])["input_ids"]
    )


def damaged(folder: Path, how: str) -> None:
    """Make the encoder in `folder` one that does not do."""
    weights = load_file(folder / "model.safetensors")
    match how:
        case "no folder":
            shutil.rmtree(folder)
        case "no config":
            (folder / "config.json").unlink()
        case "config is no JSON":
            (folder / "config.json").write_text("{")
        case "another architecture":
            BertConfig().save_pretrained(folder)
        case "pickled weights only":
            (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        case "cut weights":
            (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-5])
        case "a weight is missing":
            del weights["encoder.final_layer_norm.weight"]
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        case "a weight of another shape":
            weights["encoder.final_layer_norm.weight"] = torch.ones(3)
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        case "config that loads code":
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "x.y"}}))
        case "no tokenizer":
            (folder / "tokenizer.json").unlink()
        case "tokenizer is no JSON":
            (folder / "tokenizer.json").write_text("{")
        case "tokenizer of more tokens":
            path = folder / "tokenizer.json"
            tokenizer = json.loads(path.read_text())
            tokenizer["model"]["vocab"]["more"] = VOCABULARY
            path.write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no folder", "does not exist"),
        ("no config", "config.json does not exist"),
        ("config is no JSON", "cannot be loaded"),
        ("another architecture", "is a model of type bert: name one of a T5EncoderModel"),
        ("pickled weights only", "in safetensors"),
        ("cut weights", "cannot be loaded"),
        ("a weight is missing", "lacks 1 of the weights of a T5EncoderModel, encoder.final_layer_norm.weight"),
        ("a weight of another shape", "cannot be loaded"),
        ("config that loads code", "has auto_map): name another one"),
        ("no tokenizer", "tokenizer.json does not exist: name another model.text.encoder"),
        ("tokenizer is no JSON", "the tokenizer of model.text.encoder"),
        ("tokenizer of more tokens", f"has token ids up to {VOCABULARY}, but the encoder embeds {VOCABULARY} only"),
    ],
)
def test_what_does_not_do_is_refused_in_one_sentence(tmp_path: Path, how: str, said: str) -> None:
    save_text_encoder(tmp_path / "encoder", FrozenKind.T5)
    damaged(tmp_path / "encoder", how)
    with pytest.raises(ConfigError) as error:
        keep_encoder(section(tmp_path / "encoder"), FrozenKind.T5, tmp_path / "kept")
    assert said in str(error.value)
    assert str(tmp_path / "encoder") in str(error.value)
    assert "\n" not in str(error.value)


def test_an_encoder_of_the_other_family_is_refused(folders: dict[FrozenKind, Path]) -> None:
    for kind, other in zip(KINDS, reversed(KINDS), strict=True):
        with pytest.raises(ConfigError, match=f"name one of a {kind}"):
            with_sizes(section(folders[other]), kind)


@pytest.mark.parametrize("key", ["hidden_size", "layers", "heads", "vocab_size"])
def test_a_size_that_the_encoder_has_not_names_its_key(folders: dict[FrozenKind, Path], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.text\.{key} = 7, but .* leave model\.text\.{key} out"):
        with_sizes(section(folders[FrozenKind.T5], **{key: 7}), FrozenKind.T5)


def test_more_tokens_than_an_encoder_has_positions_are_refused(folders: dict[FrozenKind, Path]) -> None:
    with pytest.raises(ConfigError, match=r"takes 8 at most: lower model\.text\.max_tokens"):
        with_sizes(section(folders[FrozenKind.CLIP], max_tokens=9), FrozenKind.CLIP)
    with_sizes(section(folders[FrozenKind.T5], max_tokens=900), FrozenKind.T5)


def test_what_was_loaded_can_be_let_go(folders: dict[FrozenKind, Path]) -> None:
    frozen = encoder_of(folders, FrozenKind.T5)
    before = frozen(CAPTIONS).values_BLD
    first = frozen.encoder
    frozen.forget()
    assert frozen.encoder is not first
    assert torch.equal(frozen(CAPTIONS).values_BLD, before)


def test_a_folder_that_is_gone_is_noticed_when_the_encoder_is_needed(tmp_path: Path) -> None:
    config = tiny_config(*frozen_overrides(PIXELS, tmp_path / "gone", tmp_path))
    model = build_model(config.model, config.objective, b"", seed=0)
    with pytest.raises(ConfigError, match=r"gone/config\.json does not exist"):
        model.tokenize(CAPTIONS)
