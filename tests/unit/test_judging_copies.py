"""What the operator names to judge by is copied into the run when that is made, and checked."""

from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path

import pytest
import torch

from coordinator.init import init_run
from coordinator.judging.copies import copy_what_judges
from coordinator.ledger import Ledger
from coordinator.parts import parts, spec_of
from coordinator.run_folder import RunFolder
from diffusion_at_home.config.run import JudgingSection
from diffusion_at_home.data.manifest import AutoencoderKind, DataManifest, Latents, LatentSpace
from diffusion_at_home.errors import ConfigError, DataError
from diffusion_at_home.evaluation.small_encoder import SmallEncoder
from tests.unit.tiny_data import build_tiny_data
from tests.unit.tiny_glyphs import build_glyphs
from tests.unit.tiny_run import tiny_config


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    pictures = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    SmallEncoder.train(pictures, "d" * 64, steps=1).save(tmp_path / "made" / "eyes")
    return tmp_path / "made" / "eyes"


def test_both_become_part_of_the_run_and_only_their_names_are_told(tmp_path: Path, encoder: Path) -> None:
    build_tiny_data(tmp_path / "squares")
    glyphs = build_glyphs(tmp_path / "made" / "glyphs")
    places = {"data": tmp_path / "made" / "glyphs", "encoder": encoder}
    named = [f"judging.{key}='{place}'" for key, place in places.items()]
    folder = RunFolder(tmp_path / "run")
    init_run(folder, tiny_config(f"data.path='{tmp_path / 'squares'}'", "judging.every_images=1", *named))
    assert DataManifest.load(folder.pictures) == glyphs
    assert SmallEncoder.load(folder.encoder).sha256 == SmallEncoder.load(encoder).sha256
    with closing(Ledger(folder.ledger)) as ledger:
        files, spec = ledger.judging_files(), spec_of(folder, ledger)
        copied = {(part.path, part.sha256) for part in parts(folder, ledger)}
    assert files == {
        str(path.relative_to(folder.root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for place in (folder.pictures, folder.encoder)
        for path in place.iterdir()
    }
    assert set(files.items()) <= copied, "a backup would lack them"
    assert (spec.config.judging.data, spec.config.judging.encoder) == ("glyphs", "eyes")
    assert str(tmp_path).encode() not in spec.to_bytes()


def test_what_is_the_runs_own_is_not_copied_and_nothing_where_nothing_is_judged(tmp_path: Path, encoder: Path) -> None:
    assert copy_what_judges(RunFolder(tmp_path), JudgingSection()) == {}
    assert copy_what_judges(RunFolder(tmp_path), JudgingSection(every_images=0, encoder=str(encoder))) == {}


def test_what_cannot_judge_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(DataError, match=r"nowhere/manifest.json does not exist"):
        copy_what_judges(folder, JudgingSection(data=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match="nowhere is not a folder"):
        copy_what_judges(folder, JudgingSection(encoder=str(tmp_path / "nowhere")))
    space = LatentSpace(
        kind=AutoencoderKind.KL, autoencoder="a" * 64, channels=4, factor=2, scaling_factor=1.0, shift_factor=0.0
    )
    manifest = build_tiny_data(tmp_path / "latents")
    manifest.model_copy(update={"latents": Latents(space=space, pictures="b" * 64)}).save(tmp_path / "latents")
    folder.pictures.rmdir()
    with pytest.raises(ConfigError, match="holds latents: name the pictures that they were made of"):
        copy_what_judges(folder, JudgingSection(data=str(tmp_path / "latents")))
