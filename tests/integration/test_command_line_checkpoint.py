"""What a downloader types, from the list to a picture."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from diffusion_at_home.checkpoint.verify import verify
from diffusion_at_home.errors import ConfigError, IntegrityError, StorageError, Unreachable
from tests.integration.checkpoint_site import Site, serving_checkpoints
from tests.integration.command_line import dah
from tests.unit.tiny_checkpoint import PROMPT, export_tiny, tiny_facts

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two checkpoints of one run, not to be changed."""
    root = tmp_path_factory.mktemp("published")
    paths = (root / "tiny-000000100", root / "tiny-000000200")
    for path in paths:
        export_tiny(path, tiny_facts(path.name))
    return paths


@pytest.fixture
def site(folders: tuple[Path, Path]) -> Iterator[Site]:
    with serving_checkpoints(*folders) as site:
        yield site


def test_a_list_is_a_table_for_people(site: Site) -> None:
    answer = dah("checkpoint", "list", site.url)
    assert (answer.code, answer.err) == (0, "")
    rows = [line for line in answer.out.splitlines() if "tiny-000000" in line]
    assert ["best" in rows[0], "latest" in rows[1]] == [True, True]
    assert "0.2500 (ema)" in rows[0]


def test_a_list_is_one_object_for_programs(site: Site) -> None:
    listed = dah("checkpoint", "list", site.url, "--json").result
    assert [checkpoint["name"] for checkpoint in listed["checkpoints"]] == ["tiny-000000100", "tiny-000000200"]
    assert (listed["best"], listed["latest"]) == ("tiny-000000100", "tiny-000000200")


def test_a_run_without_checkpoints_has_an_empty_list() -> None:
    with serving_checkpoints() as site:
        assert dah("checkpoint", "list", site.url).out == "tiny has no checkpoint yet\n"
        assert "its newest are: none yet" in dah("checkpoint", "download", site.url).refuses(ConfigError.exit_code)


def test_a_download_is_resumed_and_then_verified(site: Site, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    words = ["checkpoint", "download", site.url, "--which", "best", "--out", out]
    path = next(path for path in site.pages if path.endswith(f"100/{WEIGHTS}"))
    site.cuts[path] = [1000, *[0] * 20]
    said = dah(*words).refuses(Unreachable.exit_code)
    assert said.startswith(f"{site.url} does not answer")
    del site.cuts[path]
    done = dah(*words, "--json")
    assert done.err == ""
    assert done.result == {
        "name": "tiny-000000100",
        "folder": str(out),
        "files": len(verify(out).files),
        "bytes": verify(out).size_bytes,
        "signed_by": None,
        "key_from": None,
    }
    assert site.sent[path] == len(site.pages[path])


def test_an_unknown_checkpoint_is_told_with_those_there_are(site: Site, tmp_path: Path) -> None:
    said = dah("checkpoint", "download", site.url, "--which", "x", cwd=tmp_path).refuses(ConfigError.exit_code)
    assert said == "the run tiny has no checkpoint 'x'; its newest are: tiny-000000100, tiny-000000200"


def test_a_download_without_out_goes_to_the_folder_that_help_names(site: Site, tmp_path: Path) -> None:
    assert dah("checkpoint", "download", site.url, cwd=tmp_path).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert verify(tmp_path / "checkpoint").name == "tiny-000000200"


def test_a_full_disk_is_said_to_be_full_and_the_download_goes_on_later(site: Site, tmp_path: Path) -> None:
    words = ["checkpoint", "download", site.url, "--out", tmp_path / "mine"]
    said = dah(*words, largest_file=4_096).refuses(StorageError.exit_code)
    assert said == f"cannot write below {tmp_path / 'mine.part'} (File too large): free some space and start again"
    assert dah(*words, "--json").result["name"] == "tiny-000000200"


def test_a_checkpoint_that_lies_on_the_way_is_refused(site: Site, tmp_path: Path) -> None:
    path = next(path for path in site.pages if path.endswith(f"200/{WEIGHTS}"))
    site.pages[path] = site.pages[path][:-1] + b"!"
    said = dah("checkpoint", "download", site.url, cwd=tmp_path).refuses(IntegrityError.exit_code)
    assert f"{WEIGHTS} does not have the sha256 of the manifest" in said


def test_verifying_tells_what_was_verified(folders: tuple[Path, Path]) -> None:
    found = dah("checkpoint", "verify", folders[0], "--json").result
    assert len(found.pop("proves")) == 1
    assert len(found.pop("does_not_prove")) == 4
    assert found == {
        "name": "tiny-000000100",
        "verified": True,
        "run_id": "tiny-00000000",
        "files": len(verify(folders[0]).files),
        "images": 100,
        "version": 3,
        "weights": "ema",
        "data": "squares",
        "license": "Apache-2.0",
        "signed_by": None,
        "key_from": None,
    }


def test_a_flipped_byte_is_refused_by_its_name(folders: tuple[Path, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folders[0], tmp_path / "copy"))
    data = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    said = dah("checkpoint", "verify", copy).refuses(IntegrityError.exit_code)
    assert said.startswith(f"{WEIGHTS} does not have the sha256 of the manifest: do not use this checkpoint")


def test_what_is_no_checkpoint_is_said_to_be_none(tmp_path: Path) -> None:
    said = dah("checkpoint", "verify", "nothing", cwd=tmp_path).refuses(IntegrityError.exit_code)
    assert said == "nothing/manifest.json does not exist: nothing is not a checkpoint, or not a whole one"


def test_a_picture_is_drawn_without_a_word_but_the_result(folders: tuple[Path, Path], tmp_path: Path) -> None:
    words = [
        "checkpoint",
        "sample",
        folders[0],
        PROMPT,
        "--out",
        tmp_path / "a.png",
        "--steps",
        "2",
        "--variant",
        "raw",
    ]
    answer = dah(*words, "--json")
    assert answer.result == {"picture": str(tmp_path / "a.png"), "width": 4, "height": 4}
    assert answer.err == ""
    with Image.open(tmp_path / "a.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (256, 256))
