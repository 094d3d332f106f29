"""What is released: a source distribution that makes a wheel, and a wheel with all that `dah` needs without a checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

from diffusion_at_home import __version__

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("coordinator/", "diffusion_at_home/", "worker/")
SHARE = f"diffusion_at_home-{__version__}.data/data/share/diffusion-at-home/"

pytestmark = [
    pytest.mark.skipif(shutil.which("git") is None or not (REPOSITORY / ".git").exists(), reason="not a checkout"),
    pytest.mark.skipif(int(version("setuptools").partition(".")[0]) < 77, reason="setuptools is too old to build it"),
]


def done(*command: str | Path, cwd: Path, environment: dict[str, str] | None = None) -> str:
    finished = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **(environment or {})},
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def tracked() -> list[str]:
    return done("git", "ls-files", "-z", cwd=REPOSITORY).rstrip("\0").split("\0")


@dataclass(frozen=True)
class Release:
    sdist: Path
    wheel: Path
    dah: Path
    """The command of an environment that has nothing of the checkout."""
    elsewhere: Path


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Made of what git tracks: source distribution, wheel of that, and a fresh environment with the wheel."""
    place = tmp_path_factory.mktemp("release")
    clone, out, fresh = place / "clone", place / "out", place / "fresh"
    for name in tracked():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        if (REPOSITORY / name).is_file():
            shutil.copy2(REPOSITORY / name, clone / name)
    done(sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_sdist({str(out)!r})", cwd=clone)
    (sdist,) = out.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    done(*pip, "wheel", sdist, "--no-deps", "--no-build-isolation", "--wheel-dir", out, cwd=place)
    (wheel,) = out.glob("*.whl")
    done(sys.executable, "-m", "venv", "--without-pip", fresh, cwd=place)
    done(*pip, "--python", fresh / "bin/python", "install", "--no-deps", wheel, cwd=place)
    (site,) = (fresh / "lib").glob("python3*/site-packages")
    (site / "what_it_depends_on.pth").write_text(sysconfig.get_path("purelib") + "\n")
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    return Release(sdist, wheel, fresh / "bin/dah", elsewhere)


def test_the_wheel_has_every_file_of_the_packages_and_every_config(release: Release) -> None:
    held = set(zipfile.ZipFile(release.wheel).namelist())
    wanted = {name for name in tracked() if name.startswith(PACKAGES)}
    wanted |= {SHARE + name for name in tracked() if name.startswith("configs/")}
    assert wanted - held == set()


def test_the_wheel_has_nothing_else(release: Release) -> None:
    held = zipfile.ZipFile(release.wheel).namelist()
    known = (*PACKAGES, SHARE, f"diffusion_at_home-{__version__}.dist-info/")
    assert [name for name in held if not name.startswith(known)] == []


def test_the_source_distribution_has_what_is_needed_to_change_and_test_it(release: Release) -> None:
    with tarfile.open(release.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    # What belongs to a repository alone.
    missing = [name for name in tracked() if name not in names and not name.startswith((".", "tests/goldens/."))]
    assert missing == []


def test_the_command_works_without_a_checkout(release: Release) -> None:
    assert done(release.dah, "--version", cwd=release.elsewhere) == f"{__version__}\n"
    for page in ([], ["demo"], ["coordinator"], ["worker"], ["checkpoint"], ["mirror"]):
        assert done(release.dah, *page, "--help", cwd=release.elsewhere).startswith("Usage: dah")


def test_shipped_configs_are_found_without_a_checkout(release: Release) -> None:
    code = (
        "import json, pathlib, diffusion_at_home, coordinator.migrations\n"
        "from diffusion_at_home.config.toml import load_toml\n"
        "from diffusion_at_home.config.run import RunConfig\n"
        "from diffusion_at_home.config.shipped import find_config\n"
        "name = pathlib.Path('configs/digits.toml')\n"
        "print(json.dumps([load_toml(name, RunConfig).run.name, str(find_config(name)), diffusion_at_home.__file__]))"
    )
    run, config, package = json.loads(done(release.dah.parent / "python", "-c", code, cwd=release.elsewhere))
    assert run == "digits"
    environment = str(release.dah.parents[1])
    assert config.startswith(f"{environment}/share/")
    assert package.startswith(f"{environment}/lib/")


def test_a_config_of_ones_own_comes_first(release: Release) -> None:
    own = release.elsewhere / "configs"
    own.mkdir()
    (own / "digits.toml").write_text("nonsense = 1\n")
    finished = subprocess.run(
        [release.dah, "coordinator", "init", "run", "--config", "configs/digits.toml"],
        cwd=release.elsewhere,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "unknown key 'nonsense'" in finished.stderr
