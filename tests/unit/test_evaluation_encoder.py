from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from transformers import CLIPVisionConfig, CLIPVisionModel

from diffusion_at_home.errors import DataError
from diffusion_at_home.evaluation.augment import FULL, LIGHT, augment
from diffusion_at_home.evaluation.encoder_training import nt_xent, train_network
from diffusion_at_home.evaluation.features import ENCODER_NAME, load_encoder
from diffusion_at_home.evaluation.levels import to_unit
from diffusion_at_home.evaluation.small_encoder import WEIGHTS_NAME, SmallEncoder
from tests.unit.tiny_glyphs import glyphs

DIGEST = "d" * 64
GLYPHS = glyphs(held_out=False).thumbnails_NCTT


@pytest.fixture(scope="module")
def encoder() -> SmallEncoder:
    return SmallEncoder.train(GLYPHS, DIGEST, steps=25)


@pytest.fixture
def folder(encoder: SmallEncoder, tmp_path: Path) -> Path:
    encoder.save(tmp_path)
    return tmp_path


def test_views_of_one_picture_are_near_and_other_pictures_far(encoder: SmallEncoder) -> None:
    real = encoder.features(to_unit(GLYPHS))
    views = encoder.features(augment(to_unit(GLYPHS), torch.Generator().manual_seed(1), LIGHT))
    found = (views @ real.T).argmax(axis=1) == np.arange(len(real))
    assert found.mean() > 0.9
    assert np.linalg.norm(real, axis=1) == pytest.approx(np.sqrt(real.shape[1]))


def test_training_is_a_function_of_the_seed_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    heard = list[int]()
    one = train_network(GLYPHS[:8], steps=3, seed=0, tell=heard.append)
    assert torch.equal(torch.get_rng_state(), before)
    again = train_network(GLYPHS[:8], steps=3, seed=0, tell=lambda _: None)
    other = train_network(GLYPHS[:8], steps=3, seed=1, tell=lambda _: None)
    assert save(one.state_dict()) == save(again.state_dict()) != save(other.state_dict())
    assert heard == [1, 2, 3]


def test_loss_is_the_formula_over_pairs() -> None:
    views = torch.nn.functional.normalize(torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    total = 0.0
    for i in range(8):
        similar = [float(torch.exp(views[i] @ views[j] / 0.5)) for j in range(8) if j != i]
        total -= float(torch.log(torch.exp(views[i] @ views[(i + 4) % 8] / 0.5) / sum(similar)))
    assert float(nt_xent(views[:4], views[4:], 0.5)) == pytest.approx(total / 8, rel=1e-5)


def test_views_are_pictures_again_and_a_function_of_the_generator() -> None:
    pictures = to_unit(GLYPHS[:6])
    for strength in (FULL, LIGHT):
        views = augment(pictures, torch.Generator().manual_seed(0), strength)
        assert views.shape == pictures.shape
        assert views.abs().max() <= 1
        assert torch.equal(views, augment(pictures, torch.Generator().manual_seed(0), strength))
    light, full = (
        (augment(pictures, torch.Generator().manual_seed(0), strength) - pictures).square().mean()
        for strength in (LIGHT, FULL)
    )
    assert 0 < light < full


def test_an_encoder_is_read_back_as_it_was_without_pickle(encoder: SmallEncoder, folder: Path) -> None:
    again = load_encoder(folder)
    assert (again.sha256, again.name, again.side) == (encoder.sha256, encoder.name, 16)
    pictures = to_unit(GLYPHS[:5])
    assert (again.features(pictures) == encoder.features(pictures)).all()
    assert sorted(path.name for path in folder.iterdir()) == [ENCODER_NAME, WEIGHTS_NAME]
    json.loads((folder / ENCODER_NAME).read_bytes())
    assert load((folder / WEIGHTS_NAME).read_bytes())


def test_features_do_not_depend_on_the_pictures_beside(encoder: SmallEncoder) -> None:
    pictures = to_unit(GLYPHS[:9])
    assert encoder.features(pictures)[4:5] == pytest.approx(encoder.features(pictures[4:5]), abs=1e-4)


def test_pictures_that_are_not_finite_are_refused(encoder: SmallEncoder) -> None:
    broken = to_unit(GLYPHS[:2])
    broken[1, 0, 3, 3] = torch.nan
    with pytest.raises(DataError, match="not finite"):
        encoder.features(broken)


def test_one_picture_trains_no_encoder() -> None:
    with pytest.raises(DataError, match="cannot be trained on one picture"):
        SmallEncoder.train(GLYPHS[:1], DIGEST)


def test_another_sha256_names_other_weights(encoder: SmallEncoder) -> None:
    assert SmallEncoder.train(GLYPHS, DIGEST, steps=1).sha256 != encoder.sha256


def with_facts(folder: Path, **changes: object) -> None:
    facts = json.loads((folder / ENCODER_NAME).read_bytes())
    (folder / ENCODER_NAME).write_text(json.dumps({**facts, **changes}))


def with_weights(folder: Path, data: bytes) -> None:
    (folder / WEIGHTS_NAME).write_bytes(data)
    with_facts(folder, weights_sha256=hashlib.sha256(data).hexdigest())


def changed(folder: Path, name: str, tensor: torch.Tensor) -> bytes:
    return save({**load((folder / WEIGHTS_NAME).read_bytes()), name: tensor})


def test_a_hostile_encoder_is_refused_in_one_sentence(folder: Path, encoder: SmallEncoder) -> None:
    attacks = {
        "weights_sha256": lambda: (folder / WEIGHTS_NAME).write_bytes(b"x"),
        "is not an encoder's": lambda: with_facts(folder, side=10**9),
        "is not an encoder's (kind": lambda: with_facts(folder, kind="pickle"),
        "is not a safetensors file": lambda: with_weights(folder, b"\x80\x04\x95" + bytes(100)),
        "over the limit": lambda: os.truncate(folder / WEIGHTS_NAME, 2**30),
        "holds other tensors": lambda: with_weights(folder, changed(folder, "head.bias", torch.zeros(3))),
        "holds other tensors than": lambda: with_weights(folder, changed(folder, "more", torch.zeros(3))),
        "not finite": lambda: with_weights(folder, changed(folder, "head.bias", torch.full((64,), torch.nan))),
        "is missing": (folder / WEIGHTS_NAME).unlink,
    }
    for said, attack in attacks.items():
        encoder.save(folder)
        attack()
        with pytest.raises(DataError) as caught:
            load_encoder(folder)
        sentence = str(caught.value)
        assert said.replace("weights_sha256", "does not have the sha256") in sentence
        assert str(folder) in sentence
        assert "\n" not in sentence


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    CLIPVisionModel(config).save_pretrained(folder)
    return folder


def test_a_vision_model_of_transformers_is_an_encoder(vision: Path) -> None:
    encoder = load_encoder(vision)
    pictures = to_unit(GLYPHS[:3])
    assert encoder.name == f"clip_vision_model in {vision.name}"
    assert (encoder.side, encoder.features(pictures).shape) == (32, (3, 16))
    assert encoder.sha256 == load_encoder(vision).sha256
    (vision / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}')
    normalized = load_encoder(vision)
    assert normalized.sha256 != encoder.sha256
    assert not np.allclose(normalized.features(pictures), encoder.features(pictures))


def test_a_vision_model_that_lacks_weights_is_refused(vision: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(vision, tmp_path / "copy"))
    weights = load((copy / "model.safetensors").read_bytes())
    name = next(name for name in weights if "patch_embedding" in name)
    del weights[name]
    (copy / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
    with pytest.raises(DataError, match="lacks the weights"):
        load_encoder(copy)


def test_what_is_no_vision_model_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        load_encoder(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"config\.json is missing"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip_vision_model"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(DataError, match="is not a vision model that transformers loads"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text('["no model"]')
    with pytest.raises(DataError, match="is not a model's configuration"):
        load_encoder(tmp_path)
