"""`dah data cluster`, `dah cohorts init` and `train-router`, one after the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from coordinator.ledger import Ledger
from coordinator.run_folder import RunFolder
from diffusion_at_home.cli.cohorts import app as cohorts
from diffusion_at_home.cli.data import app as data
from diffusion_at_home.data.manifest import DataManifest
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.runspec import RunSpec
from tests.unit.tiny_data import build_tiny_data
from tests.unit.tiny_run import TINY

OVERRIDES = [part for setting in TINY for part in ("--set", setting)]


def dah(app: typer.Typer, *arguments: str | Path) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def start_of(folder: Path) -> tuple[RunSpec, str]:
    """The specification of a run and the digest of its first weights."""
    run = RunFolder(folder)
    ledger = Ledger(run.ledger, read_only=True)
    sha256, (version,) = ledger.spec_sha256(), ledger.versions()
    ledger.close()
    return RunSpec.from_bytes((run.blobs / sha256).read_bytes()), version.weights_digest


def test_runs_of_one_cut_begin_alike_on_their_own_data(tmp_path: Path) -> None:
    build_tiny_data(tmp_path / "data")
    cut, runs, config = tmp_path / "cut", tmp_path / "runs", tmp_path / "run.toml"
    config.touch()
    made = dah(data, "cluster", tmp_path / "data", cut, "--cohorts", "2")
    assert [one["train_images"] for one in made["cohorts"]] == [48, 48]
    dah(cohorts, "init", cut, runs, "--config", config, *OVERRIDES)
    (one, first), (two, other) = (start_of(runs / f"cohort-{k}") for k in (1, 2))
    assert first == other
    assert one.tokenizer == two.tokenizer == (runs / "tokenizer.json").read_text()
    assert (one.config.run.name, two.config.run.name) == ("tiny-1", "tiny-2")
    assert two.config.server.http_port == one.config.server.http_port + 2
    assert two.data == DataManifest.load(cut / "cohort-2")
    with pytest.raises(ConfigError, match="is not empty"):
        dah(cohorts, "init", cut, runs, "--config", config, *OVERRIDES)
    small = ["--router", "images=32", "--router", "hidden_size=16", "--router", "heads=2"]
    router = dah(cohorts, "train-router", cut, tmp_path / "router", "--config", config, *OVERRIDES, *small)
    assert (router["cohorts"], router["chance"]) == (2, 0.5)
    with pytest.raises(ConfigError, match=r"cohorts are for model\.kind = 'prx' in pixels"):
        dah(cohorts, "init", cut, tmp_path / "more", "--config", config, *OVERRIDES, "--set", "model.text.encoder='t5'")
