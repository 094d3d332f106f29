"""A checkpoint is judged, from the command to the sheet."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from PIL import Image

from diffusion_at_home.checkpoint.verify import verify
from diffusion_at_home.cli.checkpoint import evaluate as judge
from diffusion_at_home.data.shards import decode_images, read_shard
from diffusion_at_home.errors import ConfigError, DataError, IntegrityError
from diffusion_at_home.evaluation.evaluate import EvaluationPlan, evaluate
from diffusion_at_home.evaluation.levels import to_levels
from diffusion_at_home.evaluation.places import HISTORY_NAME
from diffusion_at_home.evaluation.small_encoder import SmallEncoder
from tests.integration.command_line import dah
from tests.unit.tiny_checkpoint import export_tiny, tiny_facts, tiny_spec
from tests.unit.tiny_glyphs import SIDE, build_glyphs, glyphs

SETTINGS = (
    "model.image_size=16",
    "model.prx.patch_size=4",
    f"checkpoint.grid_prompts={list(glyphs(held_out=False).captions[:2])}",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of glyphs, the data set, and an encoder; not to be changed."""
    root = tmp_path_factory.mktemp("evaluation")
    manifest = build_glyphs(root / "data")
    export_tiny(root / "checkpoint", tiny_facts(spec=tiny_spec(*SETTINGS)))
    samples = read_shard(root / "data" / manifest.train[0].name, manifest.train[0])
    pictures = to_levels(decode_images(samples, (SIDE, SIDE), 3))
    SmallEncoder.train(pictures, manifest.digest, steps=3).save(root / "encoder")
    return root


def words(root: Path, out: Path, *more: str | Path) -> list[str | Path]:
    given = ["checkpoint", "evaluate", root / "checkpoint", "--data", root / "data", "--out", out, "--json"]
    return [*given, "--encoder", root / "encoder", "--pictures", "20", "--steps", "2", *more]


def test_a_checkpoint_is_judged_and_the_judgement_written_down(root: Path, tmp_path: Path) -> None:
    answer = dah(*words(root, tmp_path))
    found = answer.result
    assert answer.err == ""
    assert (found["checkpoint"], found["images"], found["weights"]) == ("tiny-000000100", 100, "ema")
    assert found["encoder_sha256"] == SmallEncoder.load(root / "encoder").sha256
    assert found["asked"] == {
        "pictures": 20, "unseen_pictures": 12, "seed": 0, "steps": 2, "guidance": 2.0, "real_pictures": 72,
    }  # fmt: skip
    assert not found["own_data"]
    for retrieval in (found["retrieval"], found["unseen"]):
        assert retrieval["candidates"] == 72
        assert retrieval["top1"]["chance"] == pytest.approx(1 / 72)
        assert 0 <= retrieval["top1"]["value"] <= retrieval["top5"]["value"] <= 1
    for distance in (found["frechet"], found["kernel"]):
        assert distance["floor"] < distance["value"]  # nothing was learnt
    assert set(found["loss"]) == {"raw", "ema"}
    assert all(len(loss["bins"]) == len(found["times"]) for loss in found["loss"].values())
    assert json.loads((tmp_path / HISTORY_NAME).read_text()) == {
        key: value for key, value in found.items() if key != "out"
    }
    for name in ("trained.png", "unseen.png", "history.png", "animation.webp", "grids/tiny-00000000/000000000100.png"):
        with Image.open(tmp_path / name) as picture:
            picture.load()


def test_people_get_a_table_with_floors_and_ceilings(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge(root / "checkpoint", root / "data", encoder=root / "encoder", out=tmp_path, pictures=10, steps=1)
    said = capsys.readouterr()
    assert said.err == ""
    assert "tiny-000000100 (ema), 100 images" in said.out
    assert "floor" in said.out
    assert "kernel distance" in said.out


def plan(root: Path, out: Path) -> EvaluationPlan:
    return EvaluationPlan(root / "checkpoint", root / "data", out, pictures=20, steps=2, encoder_steps=2)


def test_an_encoder_is_trained_once_and_the_same_questions_get_the_same_answers(root: Path, tmp_path: Path) -> None:
    stages = list[tuple[str, int, int]]()
    first = evaluate(plan(root, tmp_path), lambda *stage: stages.append(stage))
    assert {stage for stage, done, total in stages if done == total} == {
        "reading", "training the encoder", "drawing", "held-out loss", "comparing",
    }  # fmt: skip
    (folder,) = tmp_path.glob("encoder-*")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    stages.clear()
    second = evaluate(plan(root, tmp_path), lambda *stage: stages.append(stage))
    assert "training the encoder" not in {stage for stage, _, _ in stages}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    left, right = ({**result.to_json(), "seconds": 0} for result in (first, second))
    assert left == right


def test_the_loss_is_the_one_that_the_manifest_would_tell(root: Path, tmp_path: Path) -> None:
    result = evaluate(plan(root, tmp_path))
    raw, ema = result.loss["raw"].mean, result.loss["ema"].mean
    assert raw is not None
    assert ema is not None
    assert raw != ema


def test_what_cannot_be_judged_is_said_in_one_sentence(root: Path, tmp_path: Path) -> None:
    said = dah(*words(root, tmp_path, "--variant", "best")).refuses(ConfigError.exit_code)
    assert said == "--variant 'best' must be raw or ema"
    with pytest.raises(DataError, match=f"the encoder {tmp_path / 'none'} is not a folder"):
        evaluate(dataclasses.replace(plan(root, tmp_path), encoder=tmp_path / "none"))
    with pytest.raises(IntegrityError, match="is not a checkpoint's manifest"):
        evaluate(dataclasses.replace(plan(root, tmp_path), checkpoint=root / "data"))


def test_nothing_of_the_checkpoint_is_changed(root: Path) -> None:
    verify(root / "checkpoint")
