"""A checkpoint of any family needs nothing of ours: stock diffusers draws with it in a process that cannot import our code.

That process sees the standard library and one folder, with links to the installed distributions that these four and
their requirements name: diffusers and transformers, which a checkpoint is made for; torch, which both need and neither
requires; and ftfy, with which the stock PRX pipeline cleans prompts and which diffusers does not require either.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from packaging.requirements import Requirement
from PIL import Image
from safetensors.torch import load_file

from diffusion_at_home.checkpoint.manifest import load_manifest
from tests.unit.tiny_checkpoint import PROMPT, export_tiny, tiny_facts, tiny_spec
from tests.unit.tiny_families import FAMILIES, LATENTS, PIXELS, SIDE, UNET, family_overrides, save_autoencoder

NEEDED = ("diffusers", "transformers", "torch", "ftfy")
ABSENT = ("diffusion_at_home", "coordinator", "worker", "accelerate", "bitsandbytes", "grpc", "sqlalchemy")

pytestmark = pytest.mark.filterwarnings(
    "ignore:.LoraLoaderMixin. is deprecated:FutureWarning"
)  # PRXPipeline's own base

SCRIPT = """
import importlib, json, sys
site, folders, out, prompt, calls = sys.argv[1:]
sys.path.insert(0, site)

found = []
for name in ABSENT:
    try:
        importlib.import_module(name)
        found.append(name)
    except ModuleNotFoundError:
        pass

import torch
from diffusers import DiffusionPipeline
pipelines = {}
for family, call in json.loads(calls).items():
    for variant in (None, "raw"):
        pipeline = DiffusionPipeline.from_pretrained(f"{folders}/{family}", variant=variant)
        picture = pipeline(prompt, generator=torch.Generator().manual_seed(3), **call).images[0]
        picture.save(f"{out}/{family}-{variant}.png")
    pipelines[family] = type(pipeline).__name__
print(json.dumps({"found": found, "pipelines": pipelines, "path": sys.path}))
"""


def closure(names: tuple[str, ...]) -> dict[str, importlib.metadata.Distribution]:
    """The installed distributions that `names` and whatever they require name, without extras."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = list(names)
    while waiting:
        distribution = importlib.metadata.distribution(waiting.pop())
        if distribution.name in found:
            continue
        found[distribution.name] = distribution
        requirements = [Requirement(text) for text in distribution.requires or ()]
        waiting += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def link_into(site: Path, distribution: importlib.metadata.Distribution) -> None:
    """Make everything that `distribution` installed importable from `site`."""
    tops = {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}
    for top in tops:
        target = Path(str(distribution.locate_file(top)))
        if not (site / top).exists():
            (site / top).symlink_to(target)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of each family, whose autoencoder is gone: what a downloader has is all there is."""
    folder = tmp_path_factory.mktemp("checkpoints")
    autoencoder = tmp_path_factory.mktemp("autoencoder")
    save_autoencoder(autoencoder, scaling_factor=1.5, shift_factor=0.25)
    for family in FAMILIES:
        export_tiny(folder / family, tiny_facts(spec=tiny_spec(*family_overrides(family, autoencoder))))
    shutil.rmtree(autoencoder)
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the clean process puts its pictures."""
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def told(checkpoints: Path, out: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the clean process says of itself."""
    site = tmp_path_factory.mktemp("site")
    for distribution in closure(NEEDED).values():
        link_into(site, distribution)
    script = f"ABSENT = {ABSENT}\n{SCRIPT}"
    calls = json.dumps({family: load_manifest(checkpoints / family).call for family in FAMILIES})
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, site, checkpoints, out, PROMPT, calls],
        capture_output=True,
        text=True,
        check=False,
        cwd=out,
        timeout=600,
        env={"HOME": str(out), "HF_HUB_OFFLINE": "1", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(answer, dict)
    return answer


def test_the_clean_process_cannot_import_our_code_or_what_only_we_need(told: dict[str, Any]) -> None:
    assert told["found"] == []
    assert not any(str(Path(__file__).parents[2]) in place for place in told["path"])


def test_they_are_pipelines_of_stock_diffusers(told: dict[str, Any]) -> None:
    assert told["pipelines"] == {
        PIXELS: "PRXPixelPipeline",
        LATENTS: "PRXPipeline",
        UNET: "StableDiffusionPipeline",
    }


@pytest.mark.parametrize("variant", [None, "raw"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("told")
def test_they_draw_there_what_they_draw_here(checkpoints: Path, out: Path, family: str, variant: str | None) -> None:
    pipeline = DiffusionPipeline.from_pretrained(checkpoints / family, variant=variant)
    call = load_manifest(checkpoints / family).call
    here = pipeline(PROMPT, generator=torch.Generator().manual_seed(3), **call).images[0]
    side = 4 if family == PIXELS else SIDE
    with Image.open(out / f"{family}-{variant}.png") as there:
        assert (there.mode, there.size) == ("RGB", (side, side))
        assert there.tobytes() == here.tobytes()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("told")
def test_the_two_sets_of_weights_draw_differently(out: Path, family: str) -> None:
    assert (out / f"{family}-None.png").read_bytes() != (out / f"{family}-raw.png").read_bytes()


def test_a_clip_text_encoder_is_named_as_transformers_4_names_it_and_read_all_the_same(checkpoints: Path) -> None:
    files = sorted((checkpoints / UNET / "text_encoder").glob("*.safetensors"))
    assert [path.name for path in files] == ["model.raw.safetensors", "model.safetensors"]
    for path, variant in zip(files, ("raw", None), strict=True):
        saved = load_file(path)
        assert all(name.startswith("text_model.") for name in saved)
        read = DiffusionPipeline.from_pretrained(checkpoints / UNET, variant=variant).text_encoder.state_dict()
        assert len(read) == len(saved)
        for name, tensor in read.items():
            assert torch.equal(saved[f"text_model.{name.removeprefix('text_model.')}"], tensor)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_has_its_autoencoder_once_and_a_grid_of_pictures(checkpoints: Path, family: str) -> None:
    kept = sorted(path.name for path in (checkpoints / family).glob("vae/*.safetensors"))
    assert kept == ([] if family == PIXELS else ["diffusion_pytorch_model.safetensors"])
    with Image.open(checkpoints / family / "grid.png") as grid:
        assert grid.size == (180 + 2 * 68 + 4, 2 * 68 + 4)  # cells of 64 pixels
    assert "There is no single file for A1111 and ComfyUI" in (checkpoints / family / "README.md").read_text()
