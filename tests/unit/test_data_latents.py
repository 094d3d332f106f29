"""Shards of latents: what is written comes back within half a step, in few bytes; nothing else is believed."""

from __future__ import annotations

import contextlib
import json
import struct
import tempfile
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from diffusion_at_home.data.latents import (
    MAX_TEXTS_BYTES,
    Posterior,
    SampleText,
    quantize,
    read_latents,
    write_latents,
)
from diffusion_at_home.data.manifest import AutoencoderKind, LatentSpace, ShardEntry
from diffusion_at_home.errors import DataError

SPACE = LatentSpace(
    kind=AutoencoderKind.KL, autoencoder="0" * 64, channels=3, factor=4, scaling_factor=1.0, shift_factor=0.0
)
SIZE = (16, 8)
SHAPE = (5, 3, 2, 4)
TEXTS = [
    SampleText(
        key=f"k{index}",
        caption=f"caption {index}\nof two lines, \u00e9\U0001f600",
        source="here",
        license="CC0-1.0",
        author="A" * (index % 2),
        further_captions=("short",) * (index % 3),
    )
    for index in range(SHAPE[0])
]


def latents(seed: int = 0, scale: float = 1.0) -> Posterior:
    generator = torch.Generator().manual_seed(seed)
    return Posterior(scale * torch.randn(SHAPE, generator=generator), torch.rand(SHAPE[:2], generator=generator))


def entry(path: Path, **changes: int) -> ShardEntry:
    facts = {"size_bytes": max(1, path.stat().st_size), "num_samples": SHAPE[0], "width": SIZE[0], "height": SIZE[1]}
    return ShardEntry(name=path.name, sha256="0" * 64, **(facts | changes))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("latents") / "good.safetensors"
    write_latents(path, latents(), TEXTS, SIZE)
    return path


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    written = latents()
    made = write_latents(tmp_path / "a.safetensors", written, TEXTS, SIZE)
    shard = read_latents(tmp_path / "a.safetensors", made, SPACE)
    assert shard.texts == TEXTS
    back = shard.posterior(range(SHAPE[0]))
    half_a_step = written.means_NCHW.abs().amax(dim=(2, 3), keepdim=True) / 254 * 1.01
    assert ((back.means_NCHW - written.means_NCHW).abs() <= half_a_step).all()
    assert torch.allclose(back.spreads_NC, written.spreads_NC, rtol=1e-3)
    assert torch.equal(shard.posterior([3, 1]).means_NCHW, back.means_NCHW[[3, 1]])


def test_the_same_latents_give_the_same_bytes_and_the_digest_of_them(tmp_path: Path) -> None:
    first = write_latents(tmp_path / "a.safetensors", latents(), TEXTS, SIZE)
    again = write_latents(tmp_path / "a.safetensors", latents(), TEXTS, SIZE)
    assert first == again
    assert not list(tmp_path.glob("*.tmp"))


@given(st.floats(2.0**-30, 2.0**15), st.integers(0, 2**30))
def test_quantization_is_off_by_half_a_step_at_most(scale: float, seed: int) -> None:
    means = latents(seed, scale).means_NCHW
    levels, scales = quantize(means)
    peak = means.abs().amax(dim=(2, 3), keepdim=True)
    error = (levels.float() * scales.float()[:, :, None, None] - means).abs()
    assert (error <= peak / 254 * 1.13 + 8e-6).all()  # fp16 knows no scales between multiples of 6e-8


def test_zeros_stay_zeros() -> None:
    levels, scales = quantize(torch.zeros(SHAPE))
    assert not levels.any()
    assert not scales.any()


def test_latents_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    for bad in (torch.nan, torch.inf, 1e12):
        posterior = latents()
        posterior.means_NCHW[1, 1, 1, 1] = bad
        with pytest.raises(DataError, match="not finite"):
            write_latents(tmp_path / "a.safetensors", posterior, TEXTS, SIZE)
    assert not list(tmp_path.iterdir())


def test_a_sample_of_256_pixels_takes_at_most_5100_bytes(tmp_path: Path) -> None:
    num = 64
    generator = torch.Generator().manual_seed(0)
    words = [str(word) for word in torch.randint(10_000, 100_000, (4000,), generator=generator).tolist()]
    picks = torch.randint(len(words), (num, 160), generator=generator).tolist()
    texts = [
        SampleText(key=f"k{n}", caption=" ".join(words[p] for p in pick), source="a long address", license="CC-BY-4.0")
        for n, pick in enumerate(picks)
    ]
    posterior = Posterior(torch.randn(num, 4, 32, 32, generator=generator), torch.rand(num, 4, generator=generator))
    made = write_latents(tmp_path / "a.safetensors", posterior, texts, (256, 256))
    assert made.size_bytes / num <= 5100


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"num_samples": 4}, "instead of"), ({"width": 32}, "instead of"), ({"height": 16}, "instead of")],
)
def test_another_entry_than_its_own_is_refused(good: Path, changes: dict[str, int], why: str) -> None:
    with pytest.raises(DataError, match=why):
        read_latents(good, entry(good, **changes), SPACE)


def test_a_missing_shard_is_named(tmp_path: Path, good: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.safetensors is missing"):
        read_latents(tmp_path / "gone.safetensors", entry(good), SPACE)
    with pytest.raises(DataError, match="dah data encode"):
        read_latents(tmp_path, entry(good), SPACE)


def tensors(texts: bytes | None = None) -> dict[str, Tensor]:
    levels, scales = quantize(latents().means_NCHW)
    packed = zlib.compress(lines()) if texts is None else texts
    return {
        "means": levels,
        "scales": scales,
        "spreads": latents().spreads_NC.half(),
        "texts": torch.tensor(list(packed), dtype=torch.uint8),
    }


def lines() -> bytes:
    return "\n".join(text.model_dump_json() for text in TEXTS).encode()


def changed(name: str, value: Tensor | None) -> dict[str, Tensor]:
    made = tensors()
    made.pop(name, None)
    return made if value is None else made | {name: value}


def filled(value: float) -> Tensor:
    return torch.full(SHAPE[:2], value, dtype=torch.float16)


LIES: dict[str, tuple[dict[str, Tensor], str]] = {
    "no means": (changed("means", None), "instead of"),
    "another type": (changed("means", torch.zeros(SHAPE)), "instead of"),
    "another shape": (changed("scales", torch.zeros(5, 4, dtype=torch.float16)), "instead of"),
    "one too many": (changed("more", torch.zeros(1)), "instead of"),
    "texts of words": (changed("texts", torch.zeros(4)), "instead of"),
    "nan": (changed("scales", filled(torch.nan)), "finite"),
    "infinite": (changed("spreads", filled(torch.inf)), "finite"),
    "negative": (changed("spreads", filled(-1.0)), "positive"),
    "no zlib": (tensors(b"\0" * 30), "inflate"),
    "cut": (tensors(zlib.compress(lines())[:-8]), "that they declare"),
    "doubled": (tensors(zlib.compress(lines()) * 2), "that they declare"),
    "bomb": (tensors(zlib.compress(bytes(8 * len(lines())))), "that they declare"),
    "too few lines": (tensors(zlib.compress(lines().replace(b"\n", b" ", 1))), "that they declare|samples instead"),
    "no JSON": (tensors(zlib.compress(b"\n".ljust(len(lines()), b"\n"))), "samples instead"),
    "one key twice": (tensors(zlib.compress(lines().replace(b'"k1"', b'"k0"'))), "one key"),
    "not UTF-8": (tensors(zlib.compress(lines().replace(b"two", b"\xff\xff\xff"))), "text is none"),
    "a number": (tensors(zlib.compress(lines().replace(b'"here"', b"123456", 1))), "text is none"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_shard_that_lies_is_refused_by_name(tmp_path: Path, lie: str) -> None:
    content, why = LIES[lie]
    path = tmp_path / "lie.safetensors"
    path.write_bytes(save(content, metadata={"dah-latents-1": str(len(lines()))}))
    with pytest.raises(DataError, match=rf"lie\.safetensors is not a shard of latents .*({why})"):
        read_latents(path, entry(path), SPACE)


@pytest.mark.parametrize("declared", ["-1", "1e3", str(MAX_TEXTS_BYTES + 1), "9" * 40, "\u0665", ""])
def test_a_wrong_length_of_the_texts_is_refused(tmp_path: Path, declared: str) -> None:
    path = tmp_path / "lie.safetensors"
    path.write_bytes(save(tensors(), metadata={"dah-latents-1": declared}))
    with pytest.raises(DataError, match="declare"):
        read_latents(path, entry(path), SPACE)
    path.write_bytes(save(tensors(), metadata={"other": "1"}))
    with pytest.raises(DataError, match="metadata"):
        read_latents(path, entry(path), SPACE)


@pytest.mark.parametrize("length", [0, 4097, 2**40, 2**63, 2**64 - 1])
def test_a_header_of_any_declared_length_is_refused(tmp_path: Path, good: Path, length: int) -> None:
    path = tmp_path / "lie.safetensors"
    path.write_bytes(struct.pack("<Q", length) + good.read_bytes()[8:])
    with pytest.raises(DataError, match="is not a shard of latents"):
        read_latents(path, entry(path), SPACE)


@given(st.data())
def test_a_damaged_shard_raises_nothing_but_data_error(good: Path, data: st.DataObject) -> None:
    whole = bytearray(good.read_bytes())
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=4)):
        whole[place] = value
    end = data.draw(st.integers(0, len(whole)) | st.just(len(whole)))
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(whole[:end])
        file.flush()
        with contextlib.suppress(DataError):
            shard = read_latents(Path(file.name), entry(Path(file.name)), SPACE)
            assert shard.posterior(range(SHAPE[0])).means_NCHW.isfinite().all()


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=8))
def test_a_text_of_any_json_raises_nothing_but_data_error(value: object) -> None:
    packed = zlib.compress(b"\n".join([json.dumps({"key": value}).encode()] * SHAPE[0]))
    size = len(zlib.decompress(packed))
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(save(tensors(packed), metadata={"dah-latents-1": str(size)}))
        file.flush()
        with pytest.raises(DataError):
            read_latents(Path(file.name), entry(Path(file.name)), SPACE)
