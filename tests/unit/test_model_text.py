from __future__ import annotations

import copy
import json

import pytest
from diffusers.pipelines.prx.pipeline_prx_pixel import _basic_clean

from diffusion_at_home.config.run import TextEncoderSection
from diffusion_at_home.errors import ConfigError, DataError
from diffusion_at_home.model.text import clean_caption, load_tokenizer, train_tokenizer
from tests.unit.tiny_run import tiny_config, tiny_model

SECTION = TextEncoderSection(vocab_size=300, max_tokens=6)
CAPTIONS = ["a handwritten three", "a handwritten seven", "ein Kätzchen 🐈", "two &amp; two"]
ODD_CAPTIONS = [
    "",
    "  spaces  ",
    "ｆｕｌｌ",
    "caf\u00c3\u00a9",
    "&amp;lt;b&amp;gt;",
    "🐈\u200d⬛",
    "naïve",
    "MiXeD",
    "\x00\x7f",
]


def test_order_of_the_captions_does_not_change_the_tokenizer() -> None:
    assert train_tokenizer(CAPTIONS, SECTION) == train_tokenizer(reversed(CAPTIONS), SECTION)


@pytest.mark.parametrize("caption", ODD_CAPTIONS)
def test_captions_are_cleaned_as_the_exported_pipeline_cleans_a_prompt(caption: str) -> None:
    assert clean_caption(caption) == _basic_clean(caption)


@pytest.mark.parametrize("caption", [*CAPTIONS, *ODD_CAPTIONS, "word " * 50])
def test_model_and_exported_pipeline_make_the_same_tokens(caption: str) -> None:
    model = tiny_model(tiny_config())
    ours = model.tokenize([caption])
    ids, mask = model.pipeline()._tokenize_prompts([caption], "cpu")
    assert ours.ids_BL.tolist() == ids.tolist()
    assert ours.mask_BL.tolist() == mask.tolist()


def test_every_caption_ends_so_the_empty_one_has_a_token() -> None:
    tokenizer = load_tokenizer(train_tokenizer(CAPTIONS, SECTION), SECTION)
    assert tokenizer("")["input_ids"] == [tokenizer.eos_token_id]
    assert tokenizer("word " * 50, truncation=True)["input_ids"][-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("text", ["Zebra", "ß🐈", "\x00\xff", "two\nlines"])
def test_text_that_was_never_seen_survives_the_tokenizer(text: str) -> None:
    tokenizer = load_tokenizer(train_tokenizer(CAPTIONS, SECTION), SECTION)
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_vocabulary_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"raise it to 259"):
        train_tokenizer(CAPTIONS, TextEncoderSection(vocab_size=258))


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\xfe", json.dumps({"model": {"type": "WordLevel"}}).encode()])
def test_bytes_that_are_no_tokenizer_are_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="build the data set again"):
        load_tokenizer(data, SECTION)


def test_tokenizer_with_more_entries_than_the_config_is_refused() -> None:
    with pytest.raises(DataError, match=r"model\.text\.vocab_size = 260"):
        load_tokenizer(train_tokenizer(CAPTIONS, SECTION), TextEncoderSection(vocab_size=260))


@pytest.mark.parametrize("chosen", [False, True])
def test_a_tokenizer_that_contradicts_itself_is_refused_by_name(*, chosen: bool) -> None:
    section = SECTION.model_copy(update={"tokenizer": "tokenizer.json"}) if chosen else SECTION
    whole = json.loads(train_tokenizer(CAPTIONS, SECTION))
    changes = (
        lambda lies: lies["post_processor"].update(special_tokens={}),  # the library panics
        lambda lies: lies["model"].update(merges=[["a", "zz"]]),
        lambda lies: lies.update(model="x" * 100_000),
    )
    for change in changes:
        lies = copy.deepcopy(whole)
        change(lies)
        with pytest.raises(DataError, match="tokenizer") as refused:
            load_tokenizer(json.dumps(lies).encode(), section)
        assert len(str(refused.value)) < 600
