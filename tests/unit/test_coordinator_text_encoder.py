"""A run with a frozen text encoder: what is made of the operator's folder, what is backed up, what is said of damage."""

from __future__ import annotations

import hashlib
import shutil
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import ValidationError

from coordinator.backup import back_up
from coordinator.blobs import BlobStore
from coordinator.init import init_run
from coordinator.ledger import Ledger
from coordinator.parts import parts, spec_of
from coordinator.problems import Problems
from coordinator.recovery import name_what_is_missing
from coordinator.replay import replay
from coordinator.run_folder import RunFolder
from coordinator.scrubber import What, joiners_first
from coordinator.text_encoder import OWN_NAME, own_text_encoder
from diffusion_at_home.errors import ConfigError, DataError
from diffusion_at_home.frozen_text import FrozenKind
from diffusion_at_home.model.autoencoder import weights_digest
from diffusion_at_home.model.frozen import open_encoder
from diffusion_at_home.runspec import RunSpec
from tests.unit.tiny_data import build_tiny_data
from tests.unit.tiny_run import tiny_config
from tests.unit.tiny_text_encoder import HIDDEN, frozen_overrides, save_text_encoder


def made(root: Path, *overrides: str) -> RunFolder:
    """A new run whose encoder came from root/encoder, which is gone since."""
    build_tiny_data(root / "data")
    save_text_encoder(root / "encoder", FrozenKind.T5)
    folder = RunFolder(root / "run")
    init_run(
        folder,
        tiny_config(f"data.path='{root / 'data'}'", *frozen_overrides("prx", root / "encoder", root), *overrides),
    )
    shutil.rmtree(root / "encoder")
    return folder


def spec(folder: RunFolder) -> RunSpec:
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        return spec_of(folder, ledger)


def test_a_run_has_the_encoder_in_its_own_blobs_and_names_no_folder(tmp_path: Path) -> None:
    folder = made(tmp_path)
    found = spec(folder)
    assert found.text_encoder is not None
    assert (found.config.model.text.encoder, found.config.model.text.hidden_size) == (OWN_NAME, HIDDEN)
    assert found.tokenizer == ""
    assert str(tmp_path) not in found.to_bytes().decode()
    assert RunSpec.from_bytes(found.to_bytes()) == found
    with own_text_encoder(found, folder.blobs) as section:
        assert weights_digest(open_encoder(section, FrozenKind.T5, "auto")) == found.text_encoder.digest
    assert list(folder.staging.iterdir()) == []
    assert replay(folder).versions == 1


def test_the_encoder_is_backed_up_and_scrubbed(tmp_path: Path) -> None:
    folder, backup = made(tmp_path), RunFolder(tmp_path / "backup")
    found = spec(folder)
    assert found.text_encoder is not None
    names = {file.sha256 for file in found.text_encoder.files}
    with closing(Ledger(folder.ledger)) as ledger:
        assert names <= {Path(part.path).name for part in parts(folder, ledger)}
        targets = joiners_first(spec=found, history=ledger.versions(), snapshots=[0], folder=folder)
    assert {target.expected for target in targets if target.what is What.TEXT_ENCODER} == names
    back_up(folder, backup)
    with own_text_encoder(found, backup.blobs):
        pass


def test_a_damaged_file_of_the_encoder_is_named_wherever_it_is_needed(tmp_path: Path) -> None:
    folder = made(tmp_path)
    found = spec(folder)
    assert found.text_encoder is not None
    weights = next(file for file in found.text_encoder.files if file.name == "model.safetensors")
    path = folder.blobs / weights.sha256
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DataError, match=f"text encoder's model.safetensors is damaged or missing: restore {path}"):
        own_text_encoder(found, folder.blobs).__enter__()
    path.unlink()
    problems = Problems()
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        blobs = BlobStore(folder.blobs, folder.staging)
        name_what_is_missing(folder, ledger=ledger, blobs=blobs, spec=found, problems=problems)
    (problem,) = problems.present()
    assert "the text encoder's model.safetensors is damaged or missing" in problem.sentence


def test_an_encoder_that_does_not_do_makes_no_run(tmp_path: Path) -> None:
    build_tiny_data(tmp_path / "data")
    save_text_encoder(tmp_path / "encoder", FrozenKind.CLIP)
    config = tiny_config(f"data.path='{tmp_path / 'data'}'", *frozen_overrides("prx", tmp_path / "encoder", tmp_path))
    with pytest.raises(ConfigError, match="name one of a T5EncoderModel"):
        init_run(RunFolder(tmp_path / "run"), config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        "no encoder",
        "another kind",
        "another config",
        "code",
        "escaped code",
        "no JSON",
        "a deep one",
        "a pickle",
        "too large",
        "two of one name",
    ],
)
def test_a_specification_that_contradicts_itself_does_not_parse(tmp_path: Path, wrong: str) -> None:
    plain = spec(made(tmp_path)).model_dump(mode="json")
    RunSpec.model_validate(plain)
    text = plain["text_encoder"]
    match wrong:
        case "no encoder":
            plain["text_encoder"] = None
        case "another kind":
            text["kind"] = "CLIPTextModel"
        case "another config":
            text["config_json"] = text["config_json"].replace("24", "25")
        case "code" | "escaped code" | "no JSON" | "a deep one":
            key = {"code": "attn_implementation", "escaped code": "attn_implementatio\\u006e"}.get(wrong, "fine")
            config = (
                "[" * 60_000 if wrong == "a deep one" else text["config_json"].replace("{", '{"' + key + '": "x/y",', 1)
            )
            text["config_json"] = config[: -3 if wrong == "no JSON" else None]
            entry = next(file for file in text["files"] if file["name"] == "config.json")
            entry["sha256"] = hashlib.sha256(text["config_json"].encode()).hexdigest()
        case "a pickle":
            text["files"][0]["name"] = "pytorch_model.bin"
        case "too large":
            text["files"][1]["size_bytes"] = 2**50
        case _:
            text["files"].append(text["files"][0])
    with pytest.raises(ValidationError):
        RunSpec.model_validate(plain)
