"""The cohorts' checkpoints and their router become one checkpoint, whose code is ours and whose weights are theirs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageChops

from diffusion_at_home.checkpoint.export import file_entries
from diffusion_at_home.checkpoint.manifest import MANIFEST_NAME, CohortsManifest, load_manifest
from diffusion_at_home.checkpoint.proof import prove
from diffusion_at_home.checkpoint.release_key import ReleaseKey, sign_checkpoint
from diffusion_at_home.checkpoint.signature import Trust
from diffusion_at_home.checkpoint.stock import load_pipeline
from diffusion_at_home.checkpoint.verify import verify
from diffusion_at_home.cohorts.bundle import bundle
from diffusion_at_home.cohorts.router import RouterFacts
from diffusion_at_home.data.manifest import DataManifest
from diffusion_at_home.errors import ConfigError, IntegrityError
from diffusion_at_home.evaluation.drawing import Artist
from tests.unit.cohort_runs import cut_tiny_data, export_expert, save_tiny_router
from tests.unit.tiny_run import CAPTIONS

SCRIPT = """
import sys
for name in ("diffusion_at_home", "coordinator", "worker"):
    sys.modules[name] = None  # whoever imports it fails
folder, out = sys.argv[1:]
import torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
call = {"use_resolution_binning": False, "num_inference_steps": 3, "guidance_scale": 2.0}
for top_k in (1, 2):
    generator = torch.Generator().manual_seed(3)
    pipe("a dark square", top_k=top_k, generator=generator, **call).images[0].save(f"{out}/{top_k}.png")
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that is made of two cohorts; `bundle` is their one checkpoint."""
    folder = tmp_path_factory.mktemp("cohorts")
    cut_tiny_data(folder)
    save_tiny_router(folder)
    for number in (1, 2):
        export_expert(folder, number, seed=number)
    bundle([folder / "expert-2", folder / "expert-1"], folder / "router", folder / "bundle", top_k=1)
    return folder


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """The bundle, to be changed."""
    return Path(shutil.copytree(root / "bundle", tmp_path / "bundle"))


def vouch_again(folder: Path) -> None:
    """A manifest of the files as they are now, as whoever has changed one would write it."""
    manifest = load_manifest(folder)
    files = {path: entry for path, entry in file_entries(folder).items() if path != MANIFEST_NAME}
    (folder / MANIFEST_NAME).write_text(manifest.model_copy(update={"files": files}).model_dump_json())


def test_a_router_learns_what_is_easy_to_tell(root: Path) -> None:
    facts = RouterFacts.load(root / "router")
    assert facts.chance == 0.5
    assert min(facts.accuracy) > 0.9  # the caption says it, whatever the noise
    assert facts.accuracy_without_caption[0] > 0.9  # dark and bright
    assert facts.accuracy_without_caption[-1] < 1


def test_a_bundle_is_verified_signed_and_proved_like_any_checkpoint(copy: Path, tmp_path: Path) -> None:
    manifest = verify(copy)
    assert isinstance(manifest, CohortsManifest)
    assert manifest.images == 200
    assert [origin.run_id for origin in manifest.cohorts] == ["tiny-1-00000000", "tiny-2-00000000"]
    assert sum(worker.images for worker in manifest.contributors) == manifest.images
    key = ReleaseKey.create(tmp_path / "release.key")
    sign_checkpoint(copy, key)
    proof = prove(copy, Trust(root=key.public_key))
    assert proof.vouched is not None
    assert proof.vouched.trusted
    assert "pipeline.py" in proof.proves[0]


def test_other_code_is_refused_whatever_vouches_for_it(copy: Path) -> None:
    with (copy / "pipeline.py").open("a") as file:
        file.write("print('hello')\n")
    with pytest.raises(IntegrityError, match=r"pipeline.py has .* bytes instead of"):
        verify(copy)
    vouch_again(copy)
    with pytest.raises(IntegrityError, match="is not the code that this version of diffusion-at-home writes"):
        verify(copy)


def test_code_anywhere_else_is_refused(copy: Path) -> None:
    shutil.copy(copy / "pipeline.py", copy / "router" / "pipeline.py")
    vouch_again(copy)
    with pytest.raises(IntegrityError, match="none of the kinds of file"):
        verify(copy)


@pytest.mark.parametrize(
    ("file", "key", "value", "sentence"),
    [
        ("model_index.json", "router", ["transformers", "AutoModel"], "names other classes"),
        ("model_index.json", "_class_name", ["router/pipeline", "CohortPipeline"], "names other classes"),
        ("router/config.json", "auto_map", {"AutoModel": "somebody/somewhere--code.Model"}, "names code of its own"),
    ],
)
def test_whatever_would_fetch_code_is_refused(copy: Path, file: str, key: str, value: object, sentence: str) -> None:
    changed = json.loads((copy / file).read_text()) | {key: value}
    (copy / file).write_text(json.dumps(changed))
    vouch_again(copy)
    with pytest.raises(IntegrityError, match=sentence):
        verify(copy)


def test_weights_of_another_run_are_refused_whatever_vouches_for_them(copy: Path) -> None:
    for part in ("transformer", "text_encoder"):
        shutil.rmtree(copy / f"{part}_1")
        shutil.copytree(copy / f"{part}_2", copy / f"{part}_1")
    vouch_again(copy)
    with pytest.raises(IntegrityError, match="the weights of expert 1 are not those of"):
        verify(copy)


def test_an_ordinary_checkpoint_may_hold_no_code(root: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(root / "expert-1", tmp_path / "expert"))
    shutil.copy(root / "bundle" / "pipeline.py", folder)
    vouch_again(folder)
    with pytest.raises(IntegrityError, match="none of the kinds of file"):
        verify(folder)


def test_what_does_not_belong_together_is_not_put_together(root: Path, tmp_path: Path) -> None:
    router, out = root / "router", tmp_path / "out"
    with pytest.raises(ConfigError, match="no checkpoint of cohort 2"):
        bundle([root / "expert-1"], router, out, top_k=1)
    with pytest.raises(ConfigError, match="are of the same cohort"):
        bundle([root / "expert-1", root / "expert-1"], router, out, top_k=1)
    with pytest.raises(ConfigError, match="--top-k 3 must be between 1 and"):
        bundle([root / "expert-1", root / "expert-2"], router, out, top_k=3)
    other = Path(shutil.copytree(root / "router", tmp_path / "router"))
    facts = json.loads((other / "router.json").read_text())
    facts["cohorts"][0] = hashlib.sha256(b"another cut").hexdigest()
    (other / "router.json").write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match="was trained on no cohort of the router"):
        bundle([root / "expert-1", root / "expert-2"], other, out, top_k=1)
    assert not out.exists()


def test_it_is_drawn_with_and_judged_as_one_model(root: Path) -> None:
    manifest = verify(root / "bundle")
    artist = Artist.load(root / "bundle", manifest, manifest.default_weights)
    drawn = artist.draw(list(CAPTIONS), steps=2, guidance=2.0, seed=0, tell=lambda _: None)
    assert drawn.shape == (2, 3, 4, 4)
    loss = artist.held_out_loss(root / "data", DataManifest.load(root / "data").held_out)
    assert loss is not None
    assert loss.images == 8
    with pytest.raises(ConfigError, match="leave --variant out"):
        Artist.load(root / "bundle", manifest, "raw")


@pytest.mark.slow
def test_stock_diffusers_draws_with_it_in_a_process_that_cannot_import_us(root: Path, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["HF_MODULES_CACHE"] = str(tmp_path / "modules")
    words = [sys.executable, "-W", "error", "-c", SCRIPT, str(root / "bundle"), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    pictures = [Image.open(tmp_path / f"{top_k}.png") for top_k in (1, 2)]
    assert ImageChops.difference(*pictures).getbbox() is not None
    pipeline = load_pipeline(root / "bundle")  # as `dah checkpoint sample` does, top-1 by default
    call = {**load_manifest(root / "bundle").call, "num_inference_steps": 3, "guidance_scale": 2.0}
    here = pipeline("a dark square", generator=torch.Generator().manual_seed(3), **call).images[0]
    assert ImageChops.difference(here, pictures[0]).getbbox() is None
