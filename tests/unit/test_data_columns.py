"""What stands beside a picture is understood by name, and believed to be nothing but what it is."""

from __future__ import annotations

import json
import math

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffusion_at_home.data.sources.columns import MAX_CAPTIONS, MAX_SCORES, MAX_WORDS, plain_name, read_facts

calmly = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no mistake
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(["caption", "TEXT", "captions", "url", "License", "artist", "NSFW", "similarity"]) | st.text()


def test_what_img2dataset_and_laion_write_is_understood() -> None:
    record = {
        "caption": "a red car",
        "url": "https://example.org/car.jpg",
        "key": "000000123",
        "status": "success",
        "error_message": None,
        "width": 640,
        "height": 480,
        "exif": "{}",
        "sha256": "00",
        "LICENSE": "CC-BY-4.0",
        "NSFW": "UNLIKELY",
        "similarity": 0.31,
        "punsafe": 0.02,
        "watermarked": True,
    }
    facts = read_facts(record)
    assert facts.captions == ("a red car",)
    assert (facts.url, facts.license, facts.author) == ("https://example.org/car.jpg", "CC-BY-4.0", "")
    assert facts.scores == {
        "width": 640.0,
        "height": 480.0,
        "NSFW": 0.0,
        "similarity": 0.31,
        "punsafe": 0.02,
        "watermarked": 1.0,
    }


def test_captions_come_best_first_and_once() -> None:
    record = {"alt": "alt", "captions": ["one", "two", " one ", 3], "Text": "from text", "creator": ["A", "B"]}
    facts = read_facts(record, captions=("beside it", ""))
    assert facts.captions == ("beside it", "from text", "one", "two", "alt")
    assert facts.author == "A"


def test_half_a_surrogate_and_a_nul_are_taken_out() -> None:
    assert read_facts({"caption": "\ud83d a\0 cat\udc00\n"}).captions == ("a cat",)


def test_a_licence_of_a_thousand_words_is_none() -> None:
    assert read_facts({"license": "x" * (MAX_WORDS + 1), "url": "y" * (MAX_WORDS + 1)}).license == ""


@calmly
@given(st.dictionaries(names, json_values, max_size=8))
def test_nothing_in_a_record_goes_through_unbounded(record: dict[str, object]) -> None:
    facts = read_facts(record)
    assert len(facts.captions) <= MAX_CAPTIONS
    assert len(facts.scores) <= MAX_SCORES
    assert all(math.isfinite(score) for score in facts.scores.values())
    for text in (*facts.captions, facts.url, facts.license, facts.author, *facts.scores):
        assert text.encode() is not None
    assert json.dumps(facts.scores)


@calmly
@given(st.text())
def test_a_plain_name_is_plain(text: str) -> None:
    name = plain_name(text)
    assert 1 <= len(name) <= 63
    assert all(
        character.isascii() and (character.islower() or character.isdigit() or character in "._-") for character in name
    )


def test_a_plain_name_stays_near_to_what_it_was() -> None:
    assert plain_name("LAION High-Res (2022)") == "laion-high-res-2022"
    assert plain_name("...") == "pictures"
