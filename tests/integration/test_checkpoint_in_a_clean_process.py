"""A checkpoint needs nothing of ours: stock diffusers loads it and draws in a process that cannot import our code.

That process sees the standard library and one folder, with links to the installed distributions that these four and
their requirements name: diffusers and transformers, which a checkpoint is made for; torch, which both need and neither
requires; and ftfy, with which the stock PRX pipeline cleans prompts and which diffusers does not require either.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from packaging.requirements import Requirement
from PIL import Image

from diffusion_at_home.checkpoint.manifest import load_manifest
from tests.unit.tiny_checkpoint import PROMPT, export_tiny

NEEDED = ("diffusers", "transformers", "torch", "ftfy")
ABSENT = ("diffusion_at_home", "coordinator", "worker", "accelerate", "bitsandbytes", "grpc", "sqlalchemy")

SCRIPT = """
import importlib, json, sys
site, folder, out, prompt, call = sys.argv[1:]
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
for variant in (None, "raw"):
    pipeline = DiffusionPipeline.from_pretrained(folder, variant=variant)
    picture = pipeline(prompt, generator=torch.Generator().manual_seed(3), **json.loads(call)).images[0]
    picture.save(f"{out}/{variant}.png")
print(json.dumps({"found": found, "pipeline": type(pipeline).__name__, "path": sys.path}))
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
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    export_tiny(folder)
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the clean process puts its pictures."""
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def told(checkpoint: Path, out: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the clean process says of itself."""
    site = tmp_path_factory.mktemp("site")
    for distribution in closure(NEEDED).values():
        link_into(site, distribution)
    script = f"ABSENT = {ABSENT}\n{SCRIPT}"
    call = json.dumps(load_manifest(checkpoint).call)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, site, checkpoint, out, PROMPT, call],
        capture_output=True,
        text=True,
        check=False,
        cwd=out,
        timeout=240,
        env={"HOME": str(out), "HF_HUB_OFFLINE": "1", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(answer, dict)
    return answer


def test_the_clean_process_cannot_import_our_code_or_what_only_we_need(told: dict[str, Any]) -> None:
    assert told["found"] == []
    assert not any(str(Path(__file__).parents[2]) in place for place in told["path"])


def test_it_is_a_pipeline_of_stock_diffusers(told: dict[str, Any]) -> None:
    assert told["pipeline"] == "PRXPixelPipeline"


@pytest.mark.parametrize("variant", [None, "raw"])
@pytest.mark.usefixtures("told")
def test_it_draws_there_what_it_draws_here(checkpoint: Path, out: Path, variant: str | None) -> None:
    pipeline = DiffusionPipeline.from_pretrained(checkpoint, variant=variant)
    call = load_manifest(checkpoint).call
    here = pipeline(PROMPT, generator=torch.Generator().manual_seed(3), **call).images[0]
    with Image.open(out / f"{variant}.png") as there:
        assert (there.mode, there.size) == ("RGB", (4, 4))
        assert there.tobytes() == here.tobytes()


@pytest.mark.usefixtures("told")
def test_the_two_sets_of_weights_draw_differently(out: Path) -> None:
    assert (out / "None.png").read_bytes() != (out / "raw.png").read_bytes()
