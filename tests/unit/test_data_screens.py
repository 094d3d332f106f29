"""What is refused unseen is refused for a named reason, and a list that cannot be read is named with its line."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_at_home.data.opt_outs import OptOuts, read_opt_outs
from diffusion_at_home.data.screens import ScoreRule, Screens, parse_score_rule, screen
from diffusion_at_home.data.shards import MAX_TEXT_BYTES, Sample, read_shard, write_shard
from diffusion_at_home.data.sources.source import Raw, Reason, Refused
from diffusion_at_home.errors import ConfigError

RAW = Raw(
    name="a.jpg",
    image=b"an encoded file",
    captions=("a cat",),
    source="https://example.org/a",
    license="CC-BY-4.0",
    author="Ann",
    url="https://Example.org/pictures/A.jpg?size=1#top",
    scores={"aesthetic": 5.5, "unsafe": 0.2},
)


def kept(raw: Raw, screens: Screens | None = None) -> Raw:
    found = screen(raw, screens or Screens())
    assert isinstance(found, Raw)
    return found


def refused(raw: Raw, screens: Screens | None = None) -> tuple[Reason, str]:
    found = screen(raw, screens or Screens())
    assert isinstance(found, Refused)
    assert found.name == raw.name
    return found.reason, found.detail


def with_captions(*captions: str) -> Raw:
    return replace(RAW, captions=captions)


def test_by_default_a_picture_with_a_caption_is_kept_as_it_is() -> None:
    assert kept(RAW) == RAW


# Licences


def test_only_licences_on_the_list_are_taken() -> None:
    assert kept(RAW, Screens(licenses=frozenset({"CC0-1.0", "cc-by-4.0"}))) == RAW
    assert refused(RAW, Screens(licenses=frozenset({"CC0-1.0"}))) == (Reason.LICENSE, "CC-BY-4.0")
    unlicensed = replace(RAW, license="")
    assert refused(unlicensed, Screens(licenses=frozenset({"CC0-1.0"}))) == (Reason.LICENSE, "none is given")


# Opt-outs


def opt_outs(tmp_path: Path, text: str | bytes) -> OptOuts:
    path = tmp_path / "opt-outs.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_opt_outs(path)


@pytest.mark.parametrize(
    "line",
    [
        hashlib.sha256(RAW.image).hexdigest(),
        hashlib.sha256(RAW.image).hexdigest().upper() + "   # asked on Monday",
        "https://example.org/pictures/A.jpg?size=1",
        "http://EXAMPLE.org/pictures/A.jpg?size=1#bottom",
        "https://example.org/a",
    ],
)
def test_who_is_on_the_list_is_left_out(tmp_path: Path, line: str) -> None:
    screens = Screens(opt_outs=opt_outs(tmp_path, f"# do not train\n\n{line}\r\n"))
    reason, detail = refused(RAW, screens)
    assert reason == Reason.OPTED_OUT
    assert detail in {RAW.url, RAW.source, f"sha256 {hashlib.sha256(RAW.image).hexdigest()}"}


@pytest.mark.parametrize(
    "line",
    ["0" * 64, "https://example.org/pictures/a.jpg?size=1", "https://example.org/", "http://other.org/a", "# none"],
)
def test_who_is_not_on_the_list_is_kept(tmp_path: Path, line: str) -> None:
    screens = Screens(opt_outs=opt_outs(tmp_path, line))
    assert kept(RAW, screens) == RAW
    assert kept(replace(RAW, url="", source="drawn by Ann"), screens)
    assert kept(replace(RAW, url="http://[broken", source="#"), screens)


def test_a_list_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert len(opt_outs(tmp_path, b"\xef\xbb\xbf" + b"0" * 64).sha256) == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"0" * 63, "is neither a sha256"),
        (b"example.org/a.jpg", "is neither a sha256"),
        (b"ftp://example.org/a.jpg", "is neither a sha256"),
        (b"http://", "is neither a sha256"),
        (b"http://[broken", "is neither a sha256"),
        (b"http://example.org/a b.jpg", "is neither a sha256"),
        (b"\xff\xfe", "this is not UTF-8 text"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"opt-outs\.txt, line 3: .*{words}|opt-outs\.txt, line 3: {words}"):
        opt_outs(tmp_path, b"# first\n" + b"1" * 64 + b"\n" + line + b"\n")


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.txt cannot be read \(No such file or directory\)"):
        read_opt_outs(tmp_path / "none.txt")


# Scores


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("aesthetic>=5", ScoreRule("aesthetic", 5, is_least=True)),
        (" not safe <= 1e-1 ", ScoreRule("not safe", 0.1, is_least=False)),
        ("a>=-3.5", ScoreRule("a", -3.5, is_least=True)),
    ],
)
def test_a_score_rule_is_read(text: str, rule: ScoreRule) -> None:
    assert parse_score_rule(text) == rule
    assert parse_score_rule(str(rule)) == rule


@pytest.mark.parametrize("text", ["", "5", ">=5", "a>5", "a=>5", "a>=", "a>=b", "a>=nan", "a>=inf", "a>=1>=2", "a==1"])
def test_what_is_no_score_rule_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="does not read like"):
        parse_score_rule(text)


@pytest.mark.parametrize(
    ("rules", "detail"),
    [
        (["aesthetic>=5", "unsafe<=0.2"], None),
        (["aesthetic>=5.5", "aesthetic<=5.5"], None),
        (["aesthetic>=6"], "aesthetic is 5.5, where aesthetic>=6 is asked for"),
        (["aesthetic>=5", "unsafe<=0.1"], "unsafe is 0.2, where unsafe<=0.1 is asked for"),
        (["sharpness>=1"], "no sharpness, where sharpness>=1 is asked for"),
    ],
)
def test_every_score_rule_must_hold(rules: list[str], detail: str | None) -> None:
    screens = Screens(scores=tuple(parse_score_rule(rule) for rule in rules))
    if detail is None:
        assert kept(RAW, screens) == RAW
    else:
        assert refused(RAW, screens) == (Reason.SCORE, detail)


def test_a_missing_score_may_be_let_through() -> None:
    assert kept(RAW, Screens(scores=(parse_score_rule("sharpness>=1"),), refuse_unscored=False)) == RAW


@pytest.mark.parametrize("rule", ["unsafe>=0", "unsafe<=1"])
def test_a_score_that_is_no_number_is_refused(rule: str) -> None:
    raw = replace(RAW, scores={"unsafe": float("nan")})
    assert refused(raw, Screens(scores=(parse_score_rule(rule),)))[0] == Reason.SCORE


# Captions


def test_captions_are_stripped_and_empty_ones_dropped() -> None:
    assert kept(with_captions("", "  a cat\n", " \t", "a black cat")).captions == ("a cat", "a black cat")


@pytest.mark.parametrize("captions", [(), ("",), (" ", "\n")])
def test_a_picture_without_a_caption_is_refused(captions: tuple[str, ...]) -> None:
    assert refused(with_captions(*captions))[0] == Reason.NO_CAPTION


@pytest.mark.parametrize("character", ["x", "ü", "語", "🐈"])
def test_a_long_caption_is_cut_between_two_characters(character: str) -> None:
    (caption,) = kept(with_captions("!" + character * MAX_TEXT_BYTES)).captions
    assert set(caption[1:]) == {character}
    assert MAX_TEXT_BYTES - 4 < len(caption.encode()) <= MAX_TEXT_BYTES


TEXTS = st.text(st.characters(exclude_categories=()), max_size=50)
"""Any code points, even halves of surrogate pairs."""


REPEATED = st.tuples(TEXTS, st.sampled_from([1, 500, 5000]))


@given(captions=st.lists(REPEATED, max_size=5), facts=st.tuples(REPEATED, REPEATED, REPEATED))
def test_whatever_the_text_a_shard_takes_what_is_kept(
    tmp_path_factory: pytest.TempPathFactory,
    captions: list[tuple[str, int]],
    facts: tuple[tuple[str, int], tuple[str, int], tuple[str, int]],
) -> None:
    source, license_, author = (text * times for text, times in facts)
    captions_whole = tuple(text * times for text, times in captions)
    found = screen(replace(RAW, captions=captions_whole, source=source, license=license_, author=author), Screens())
    if isinstance(found, Refused):
        assert found.reason == Reason.NO_CAPTION
        assert found.detail
        return
    sample = Sample(
        key="a",
        image=b"",
        suffix="png",
        caption=found.captions[0],
        source=found.source,
        license=found.license,
        author=found.author,
        further_captions=found.captions[1:],
    )
    path = tmp_path_factory.getbasetemp() / "screened.tar"
    assert read_shard(path, write_shard(path, [sample], (8, 8))) == [sample]


def test_further_captions_that_a_shard_has_no_room_for_are_dropped() -> None:
    captions = [letter * 30_000 for letter in "abcd"]
    found = kept(with_captions(*captions)).captions
    assert list(found) == captions[:3]
    assert len(json.dumps(found[1:])) < MAX_TEXT_BYTES
