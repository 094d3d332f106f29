"""The emoji, end to end: small exact squares, some held out by word."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusion_at_home.data.build import build
from diffusion_at_home.data.inspect import summarize
from diffusion_at_home.data.sources.emoji import FONT, NAMES

pytestmark = pytest.mark.skipif(not (FONT.exists() and NAMES.exists()), reason="needs the font and Unicode's names")


def test_the_emoji_become_small_squares_some_of_them_held_out(tmp_path: Path) -> None:
    manifest = build("emoji", tmp_path / "emoji", overrides=["processes=1"])
    found = summarize(tmp_path / "emoji")
    assert set(found.sizes) == {"64x64"}
    assert found.train_images > 1000
    assert 20 < found.held_out_images < 400
    assert (manifest.name, manifest.license) == ("emoji", "OFL-1.1")
