"""What an evaluation leaves behind: history, sheets, animation, curves."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageSequence

from diffusion_at_home.errors import ConfigError
from diffusion_at_home.evaluation.animation import FORMATS, Frame, animate
from diffusion_at_home.evaluation.places import HISTORY_NAME
from diffusion_at_home.evaluation.plot import plot_history
from diffusion_at_home.evaluation.result import append_history
from diffusion_at_home.evaluation.sheet import Row, answer_sheet, grid


def line(images: int, **changes: Any) -> dict[str, Any]:
    figures = {"value": 0.5, "floor": 0.1, "ceiling": 1.0}
    return {
        "run_id": "r",
        "checkpoint": f"c{images}",
        "weights": "ema",
        "images": images,
        "loss": {"ema": {"mean": None if images == 0 else 1 / images}},
        "frechet": figures,
        "kernel": figures,
        "retrieval": {"top1": {**figures, "chance": 0.01}},
        **changes,
    }


def test_history_is_by_images_and_has_the_last_word_on_each_checkpoint(tmp_path: Path) -> None:
    append_history(tmp_path, line(200))
    append_history(tmp_path, line(100))
    append_history(tmp_path, line(100, weights="raw"))
    history = append_history(tmp_path, line(200, seconds=7))
    assert [(entry["images"], entry["weights"]) for entry in history] == [(100, "ema"), (100, "raw"), (200, "ema")]
    assert history[-1]["seconds"] == 7
    assert len((tmp_path / HISTORY_NAME).read_text().splitlines()) == 4


def test_a_history_that_was_cut_short_goes_on(tmp_path: Path) -> None:
    append_history(tmp_path, line(100))
    path = tmp_path / HISTORY_NAME
    path.write_text(path.read_text() + json.dumps(line(200))[:30])
    assert [entry["images"] for entry in append_history(tmp_path, line(300))] == [100, 300]
    assert [entry["images"] for entry in append_history(tmp_path, line(400))] == [100, 300, 400]


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_animation_has_a_frame_for_each_moment_in_order(tmp_path: Path, suffix: str) -> None:
    colours = ("red", "green", "blue")
    frames = [Frame(images, Image.new("RGB", (40 + images, 30), colours[images // 100])) for images in (200, 0, 100)]
    path = tmp_path / f"run{suffix}"
    animate(frames, path, timedelta(seconds=0.1))
    with Image.open(path) as moving:
        pages = [
            page.convert("RGB").getpixel((page.width // 2, page.height - 8)) for page in ImageSequence.Iterator(moving)
        ]
        assert moving.size == (240, 50)
    assert len(pages) == 3
    assert [max(range(3), key=lambda channel, page=page: page[channel]) for page in pages] == [0, 1, 2]  # type: ignore[misc]


def test_an_animation_of_one_frame_is_a_picture(tmp_path: Path) -> None:
    animate([Frame(5, Image.new("RGB", (40, 30)))], tmp_path / "run.webp")
    with Image.open(tmp_path / "run.webp") as still:
        assert still.size == (40, 50)


def test_an_animation_of_nothing_or_of_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in one of \.webp"):
        animate([Frame(0, Image.new("RGB", (4, 4)))], tmp_path / "run.mp4")
    with pytest.raises(ConfigError, match="there is no picture"):
        animate([], tmp_path / "run.gif")


def test_sheets_have_room_for_every_picture() -> None:
    picture = torch.zeros(3, 16, 32, dtype=torch.uint8)
    rows = [Row("a caption that is far too long to be shown below three pictures", (picture,) * 3, right=True)] * 5
    sheet = answer_sheet(rows, columns=2)
    assert sheet.width == 2 * (3 * 84 + 20)
    assert sheet.height >= 3 * 80
    assert grid([picture] * 11, columns=10).size == (10 * 84 + 4, 2 * 84 + 4)


def test_curves_are_drawn_with_gaps_where_there_is_no_number(tmp_path: Path) -> None:
    plot_history([line(0), line(100), line(200, loss={})], tmp_path / "history.png")
    with Image.open(tmp_path / "history.png") as picture:
        assert picture.format == "PNG"
