"""An exported checkpoint is a stock pipeline with all its facts, and it appears whole or not at all."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageChops
from torch import Tensor

from diffusion_at_home.checkpoint.draw import draw
from diffusion_at_home.checkpoint.export import Evaluated
from diffusion_at_home.checkpoint.grid import compose_grid, to_image
from diffusion_at_home.checkpoint.manifest import MANIFEST_NAME, CheckpointManifest, load_manifest
from diffusion_at_home.checkpoint.verify import verify
from diffusion_at_home.errors import ConfigError, IntegrityError, StorageError
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.model.sampling import sample
from tests.unit.tiny_checkpoint import PROMPT, export_tiny, tiny_facts, tiny_spec
from tests.unit.tiny_run import CAPTIONS


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DiffusionModel]:
    """A checkpoint, not to be changed, and the model with its default weights."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    model, _ = export_tiny(folder)
    return folder, model


@pytest.fixture(scope="module")
def folder(exported: tuple[Path, DiffusionModel]) -> Path:
    return exported[0]


@pytest.fixture(scope="module")
def model(exported: tuple[Path, DiffusionModel]) -> DiffusionModel:
    return exported[1]


def weights(pipeline: DiffusionPipeline) -> dict[str, Tensor]:
    parts = {"transformer": pipeline.transformer, "text_encoder": pipeline.text_encoder}
    return {f"{part}.{name}": p for part, module in parts.items() for name, p in module.named_parameters()}


def test_an_export_is_verified(folder: Path) -> None:
    manifest = verify(folder)
    everything = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(manifest.files) == everything - {MANIFEST_NAME}


def test_the_manifest_tells_what_the_weights_are(folder: Path, model: DiffusionModel) -> None:
    manifest = load_manifest(folder)
    assert (manifest.name, manifest.version, manifest.images) == ("tiny-000000100", 3, 100)
    assert manifest.held_out_loss == {"raw": 0.5, "ema": 0.25}
    assert manifest.held_out_bins == (0.1, None, 0.4)
    assert manifest.parameters == model.num_parameters
    assert manifest.created == "2023-11-14T22:13:20+00:00"
    assert manifest.data.images == 90
    assert manifest.config["checkpoint"]["sampling_steps"] == 3
    assert manifest.size_bytes == sum(path.stat().st_size for path in folder.rglob("*.*")) - (
        (folder / MANIFEST_NAME).stat().st_size
    )


def test_the_stock_pipeline_loads_the_default_weights(folder: Path, model: DiffusionModel) -> None:
    loaded = weights(DiffusionPipeline.from_pretrained(folder))
    ours = dict(model.named_parameters())
    assert loaded.keys() == ours.keys()
    assert all(torch.equal(loaded[name], ours[name]) for name in ours)


def test_the_variant_loads_the_other_weights(folder: Path, model: DiffusionModel) -> None:
    loaded = weights(DiffusionPipeline.from_pretrained(folder, variant="raw"))
    ours = dict(model.named_parameters())
    assert all(torch.equal(loaded[name], ours[name] * 0.5) for name in ours)


def test_the_loaded_pipeline_draws_what_the_model_draws(folder: Path, model: DiffusionModel) -> None:
    pipeline = DiffusionPipeline.from_pretrained(folder)
    generator = torch.Generator().manual_seed(4)
    stock = pipeline(PROMPT, generator=generator, **load_manifest(folder).call).images[0]
    ours = sample(model, [PROMPT], steps=3, guidance_scale=2.0, seed=4, size=(3, 4, 4))
    difference = ImageChops.difference(stock, to_image(ours[0]))
    assert all(most <= 1 for _, most in difference.getextrema())  # rounding


def test_the_grid_has_a_row_a_caption(folder: Path) -> None:
    with Image.open(folder / "grid.png") as grid:
        assert (grid.format, grid.size) == ("PNG", (180 + 2 * 68 + 4, len(CAPTIONS) * 68 + 4))


def test_nothing_tells_of_the_machine_it_was_made_on(tmp_path: Path) -> None:
    secret = tmp_path / "home-of-the-operator"
    spec = tiny_spec(f"data.path='{secret / 'squares'}'")
    assert spec.config.data.path == Path("squares")
    assert "home-of-the-operator" not in spec.to_bytes().decode()
    export_tiny(secret / "checkpoint", tiny_facts(spec=spec))
    for path in (secret / "checkpoint").rglob("*.*"):
        assert b"home-of-the-operator" not in path.read_bytes(), path


def test_an_export_is_all_or_nothing(tmp_path: Path) -> None:
    leftover = tmp_path / ".tiny.part"
    (leftover / "transformer").mkdir(parents=True)
    (leftover / "transformer" / "half.safetensors").write_bytes(b"half")
    export_tiny(tmp_path / "tiny")
    verify(tmp_path / "tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_an_export_that_fails_leaves_nothing_to_be_taken_for_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError):
        export_tiny(tmp_path / "file" / "tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_losses_on_the_way_are_drawn_and_listed(tmp_path: Path) -> None:
    way = (Evaluated(0, 1.0, 1.0), Evaluated(50, 0.6, 0.7), Evaluated(100, 0.5, 0.25))
    export_tiny(tmp_path / "tiny", dataclasses.replace(tiny_facts(), evaluated=way))
    with Image.open(tmp_path / "tiny" / "loss.png") as curve:
        assert curve.format == "PNG"
    assert "loss.png" in verify(tmp_path / "tiny").files
    assert "](loss.png)" in (tmp_path / "tiny" / "README.md").read_text(encoding="utf-8")


def snippet(card: str) -> ast.Module:
    """The card's Python."""
    found = re.search(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    assert found
    return ast.parse(found[1])


def test_the_card_draws_what_it_says(folder: Path) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    code = ast.unparse(snippet(card)).replace("path/to/this/folder", str(folder))
    names: dict[str, Image.Image] = {}
    exec(code, names)
    assert names["image"].size == (4, 4)


def test_the_recommended_call_is_in_manifest_and_card(folder: Path) -> None:
    manifest = load_manifest(folder)
    assert manifest.call == {"use_resolution_binning": False, "num_inference_steps": 3, "guidance_scale": 2.0}
    calls = [node for node in ast.walk(snippet((folder / "README.md").read_text())) if isinstance(node, ast.Call)]
    (call,) = (node for node in calls if isinstance(node.func, ast.Name) and node.func.id == "pipe")
    assert {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords} == manifest.call


def test_drawing_is_reproducible_and_enlarged_for_people(folder: Path, tmp_path: Path) -> None:
    settings = {"steps": None, "guidance": None, "variant": None}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        size = draw(folder, PROMPT, tmp_path / "new" / f"{name}.png", seed=seed, **settings)  # type: ignore[arg-type]
        assert size == (4, 4)
    a, b, c = ((tmp_path / "new" / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c
    with Image.open(tmp_path / "new" / "a.png") as picture:
        assert picture.size == (256, 256)


def test_drawing_with_a_variant_draws_with_the_other_weights(folder: Path, tmp_path: Path) -> None:
    pictures = []
    for variant in (None, "ema", "raw"):
        draw(folder, PROMPT, tmp_path / "x.png", seed=1, steps=2, guidance=1.0, variant=variant)
        pictures.append((tmp_path / "x.png").read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_drawing_with_an_unknown_variant_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--variant 'fp16' must be raw or ema"):
        draw(folder, PROMPT, tmp_path / "x.png", seed=1, steps=2, guidance=1.0, variant="fp16")


def test_drawing_with_a_damaged_checkpoint_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"manifest\.json does not exist"):
        draw(folder / "transformer", PROMPT, tmp_path / "x.png", seed=1, steps=2, guidance=1.0, variant=None)


def test_levels_are_clipped_and_grey_becomes_rgb() -> None:
    picture = to_image(torch.tensor([[[-3.0, -1.0, 0.0, 1.0, 3.0]]]))
    assert (picture.mode, picture.size) == ("RGB", (5, 1))
    assert list(picture.tobytes()[::3]) == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(("side", "cell"), [(8, 64), (100, 100), (512, 256)])
def test_cells_of_a_grid_are_large_enough_and_not_too_large(side: int, cell: int) -> None:
    grid = compose_grid(torch.zeros(4, 3, side, side), ["a", "b"], columns=2)
    assert grid.size == (180 + 2 * (cell + 4) + 4, 2 * (cell + 4) + 4)


def test_a_loss_that_is_not_finite_travels_as_null(tmp_path: Path) -> None:
    facts = tiny_facts()
    manifest = CheckpointManifest.model_validate_json(export_tiny(tmp_path / "tiny", facts)[1].model_dump_json())
    assert math.isnan(facts.held_out_bins[1])
    assert manifest.held_out_bins[1] is None
    assert "NaN" not in json.dumps(json.loads((tmp_path / "tiny" / MANIFEST_NAME).read_text()))
