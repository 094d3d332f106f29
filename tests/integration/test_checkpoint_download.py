"""A download ends in a verified checkpoint or says why not; what has come is never fetched again, unless it was wrong."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffusion_at_home.checkpoint.download import download, list_checkpoints
from diffusion_at_home.checkpoint.listing import LISTING_PATH, MAX_LISTING_BYTES, file_path
from diffusion_at_home.checkpoint.manifest import MANIFEST_NAME
from diffusion_at_home.checkpoint.verify import verify
from diffusion_at_home.errors import ConfigError, IntegrityError, StorageError, Unreachable
from tests.integration.checkpoint_site import Site, serving_checkpoints
from tests.unit.tiny_checkpoint import export_tiny, tiny_facts

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
    """Publishes the first of them."""
    with serving_checkpoints(folders[0]) as site:
        yield site


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "mine"


def bring(site: Site, out: Path, which: str = "latest") -> str:
    """Download; returns the checkpoint's name."""
    return download(site.url, which, out, lambda *_: None).manifest.name


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_arrives_is_what_was_published(site: Site, out: Path, folders: tuple[Path, Path]) -> None:
    assert bring(site, out) == "tiny-000000100"
    assert contents(out) == contents(folders[0])
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert all(wanted is None for _, wanted in site.asked)


def test_progress_rises_to_the_whole(site: Site, out: Path) -> None:
    told: list[tuple[int, int]] = []
    manifest = download(site.url, "latest", out, lambda have, total: told.append((have, total))).manifest
    assert [have for have, _ in told] == sorted(have for have, _ in told)
    assert told[-1] == (manifest.size_bytes, manifest.size_bytes)


@pytest.mark.parametrize(("which", "index"), [("best", 0), ("latest", 1), ("tiny-000000100", 0), ("tiny-000000200", 1)])
def test_a_checkpoint_is_chosen_by_name(folders: tuple[Path, Path], out: Path, which: str, index: int) -> None:
    with serving_checkpoints(*folders) as site:
        assert bring(site, out, which) == folders[index].name


def test_an_unknown_name_is_told_with_those_there_are(folders: tuple[Path, Path], out: Path) -> None:
    said = "no checkpoint 'tiny-1'; its newest are: tiny-000000100, tiny-000000200"
    with serving_checkpoints(*folders) as site, pytest.raises(ConfigError, match=said):
        bring(site, out, "tiny-1")
    assert not out.exists()


@pytest.mark.parametrize("which", ["latest", "best"])
def test_a_run_without_checkpoints_says_so(out: Path, which: str) -> None:
    with serving_checkpoints() as site, pytest.raises(ConfigError, match="its newest are: none yet"):
        bring(site, out, which)


def test_a_cut_in_a_file_is_resumed_at_the_byte_where_it_came(site: Site, out: Path) -> None:
    path = site.path_of(WEIGHTS)
    site.cuts[path] = [1000, 500]
    bring(site, out)
    verify(out)
    assert [wanted for asked, wanted in site.asked if asked == path] == [None, "bytes=1000-", "bytes=1500-"]
    assert site.sent[path] == len(site.pages[path])


def test_a_line_that_drops_for_good_keeps_what_has_come(site: Site, out: Path) -> None:
    path = site.path_of(WEIGHTS)
    site.cuts[path] = [1000, *[0] * 20]
    with pytest.raises(Unreachable, match=f"{site.url} does not answer"):
        bring(site, out)
    assert not out.exists()
    before = dict(site.sent)
    del site.cuts[path]
    bring(site, out)
    verify(out)
    assert site.sent[path] == len(site.pages[path])
    assert [
        name for name in before if name.startswith("/checkpoints/") and site.sent[name] > len(site.pages[name])
    ] == [file_path("tiny-000000100", MANIFEST_NAME)]


def test_a_server_that_does_not_know_ranges_is_read_from_the_start(site: Site, out: Path) -> None:
    path = site.path_of(WEIGHTS)
    site.knows_range = False
    site.cuts[path] = [1000]
    bring(site, out)
    verify(out)
    assert site.sent[path] == 1000 + len(site.pages[path])


def test_a_download_of_another_checkpoint_that_was_broken_off_does_no_harm(
    site: Site, out: Path, folders: tuple[Path, Path]
) -> None:
    part = out.with_name(f"{out.name}.part")
    shutil.copytree(folders[1], part)
    (part / WEIGHTS).write_bytes(bytes(1000))
    (part / "stranger").mkdir()
    (part / "stranger" / "code.py").write_text("")
    assert bring(site, out) == "tiny-000000100"
    assert contents(out) == contents(folders[0])


@pytest.mark.parametrize("left", [b"", b"x" * 1000, b"x" * 10**6], ids=["empty", "wrong", "too long"])
def test_a_part_that_is_wrong_is_fetched_anew(site: Site, out: Path, left: bytes) -> None:
    file = out.with_name(f"{out.name}.part") / WEIGHTS
    file.parent.mkdir(parents=True)
    file.write_bytes(left)
    bring(site, out)
    verify(out)


def test_a_flipped_byte_is_named_and_not_kept(site: Site, out: Path) -> None:
    path = site.path_of(WEIGHTS)
    good = site.pages[path]
    site.pages[path] = good[:2000] + bytes([good[2000] ^ 1]) + good[2001:]
    with pytest.raises(IntegrityError, match=f"{WEIGHTS} does not have the sha256 of the manifest: do not use"):
        bring(site, out)
    assert not out.exists()
    site.pages[path] = good
    bring(site, out)
    verify(out)


@pytest.mark.parametrize("lie", [b"", b"short", b"x" * 10**6], ids=["empty", "shorter", "longer"])
def test_a_file_of_another_size_than_the_manifest_says_is_named(site: Site, out: Path, lie: bytes) -> None:
    site.pages[site.path_of(WEIGHTS)] = lie
    with pytest.raises(IntegrityError, match=WEIGHTS):
        bring(site, out)
    assert not out.exists()


def test_a_manifest_that_was_not_listed_is_refused(site: Site, out: Path) -> None:
    path = site.path_of(MANIFEST_NAME)
    site.pages[path] = site.pages[path].replace(b'"images": 100', b'"images": 999')
    with pytest.raises(IntegrityError, match=r"manifest\.json of tiny-000000100 does not have the listed sha256"):
        bring(site, out)
    assert not out.exists()


def test_a_missing_file_is_named(site: Site, out: Path) -> None:
    path = site.path_of(WEIGHTS)
    del site.pages[path]
    with pytest.raises(ConfigError, match=f"{path} answers with HTTP 404"):
        bring(site, out)


def test_a_server_in_trouble_may_be_asked_again_later(site: Site) -> None:
    site.statuses[LISTING_PATH] = 503
    with pytest.raises(Unreachable, match="answers with HTTP 503: try again later"):
        list_checkpoints(site.url)


@pytest.mark.parametrize("page", [b"", b"<html>", b"{}", b'{"checkpoints": []}', b"\xff"])
def test_what_is_no_run_is_said_to_be_none(site: Site, page: bytes) -> None:
    site.pages[LISTING_PATH] = page
    with pytest.raises(ConfigError, match="does not list checkpoints: is this a run's address"):
        list_checkpoints(site.url)


def test_a_listing_without_end_is_left(site: Site) -> None:
    site.pages[LISTING_PATH] = b" " * (MAX_LISTING_BYTES + 1)
    with pytest.raises(IntegrityError, match=f"larger than {MAX_LISTING_BYTES} bytes"):
        list_checkpoints(site.url)


@pytest.mark.parametrize("url", ["", "nonsense", "ftp://host", "http://", "http://[::1"])
def test_what_is_no_address_is_said_to_be_none(url: str) -> None:
    with pytest.raises(ConfigError, match="is not an address: give one like https://host:8400"):
        list_checkpoints(url)


def test_an_address_may_end_in_a_slash(site: Site) -> None:
    assert list_checkpoints(f"{site.url}/").latest == "tiny-000000100"


def test_a_checkpoint_that_is_there_is_verified_and_left_alone(site: Site, out: Path) -> None:
    bring(site, out)
    before, site.asked = contents(out), []
    assert bring(site, out) == "tiny-000000100"
    assert site.asked == [(LISTING_PATH, None)]
    assert contents(out) == before
    (out / WEIGHTS).write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match=f"{WEIGHTS} has 7 bytes .* delete it and download it again"):
        bring(site, out)


def test_a_folder_of_another_checkpoint_is_refused(site: Site, out: Path, folders: tuple[Path, Path]) -> None:
    shutil.copytree(folders[1], out)
    with pytest.raises(ConfigError, match=r"holds the checkpoint tiny-000000200 .* not the tiny-000000100"):
        bring(site, out)
    assert contents(out) == contents(folders[1])


def test_a_folder_with_something_else_is_refused_and_left_alone(site: Site, out: Path) -> None:
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not an empty folder: choose a new one with --out"):
        bring(site, out)
    assert contents(out) == {"thesis.txt": b"mine"}


def test_an_empty_folder_is_filled(site: Site, out: Path) -> None:
    out.mkdir()
    bring(site, out)
    verify(out)


def test_a_file_in_the_way_is_named(site: Site, out: Path) -> None:
    out.write_text("mine")
    with pytest.raises(ConfigError, match="is not an empty folder"):
        bring(site, out)
    with pytest.raises(StorageError, match="choose another place"):
        bring(site, out / "below")


def test_the_working_directory_itself_can_be_filled(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    bring(site, Path())
    verify(tmp_path / "here")
