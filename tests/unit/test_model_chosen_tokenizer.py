"""A tokenizer that the operator chose: made here in CLIP's form and in T5's, of a few words."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from diffusion_at_home.config.run import TextEncoderSection
from diffusion_at_home.errors import ConfigError, DataError
from diffusion_at_home.model.build import build_model
from diffusion_at_home.model.chosen_tokenizer import is_clip_tokenizer, tokenizer_digest
from diffusion_at_home.model.text import load_tokenizer, run_tokenizer
from diffusion_at_home.model.unet import UNet
from tests.unit.tiny_checkpoint import tiny_spec
from tests.unit.tiny_families import UNET, family_overrides, save_autoencoder
from tests.unit.tiny_run import tiny_config

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
WORDS = ("a</w>", "c", "a", "t</w>", "ca", "cat</w>")


def clip_form(*merges: tuple[str, str], ends: bool = True) -> bytes:
    vocabulary = {token: index for index, token in enumerate((*WORDS, BEGIN, END))}
    tokenizer = Tokenizer(models.BPE(vocabulary, list(merges), unk_token=END, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if ends:
        tokenizer.post_processor = processors.RobertaProcessing((END, vocabulary[END]), (BEGIN, vocabulary[BEGIN]))
    text: str = tokenizer.to_str()
    return text.encode()


def t5_form() -> bytes:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581a", -1.0), ("\u2581cat", -2.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    text: str = tokenizer.to_str()
    return text.encode()


MERGES = (("c", "a"), ("ca", "t</w>"))
CLIP = clip_form(*MERGES)


def section(path: Path | str = "tokenizer.json", vocab_size: int = 300) -> TextEncoderSection:
    return TextEncoderSection(tokenizer=str(path), vocab_size=vocab_size, max_tokens=6)


@pytest.mark.parametrize(
    ("data", "text", "wanted"),
    [
        (CLIP, "A cat", [6, 0, 5, 7, 7, 7]),
        (CLIP, "", [6, 7, 7, 7, 7, 7]),
        (CLIP, "a a a a a a a a a a", [6, 0, 0, 0, 0, 7]),
        (t5_form(), "a cat", [3, 4, 1, 0, 0, 0]),
        (t5_form(), "", [1, 0, 0, 0, 0, 0]),
    ],
)
def test_a_text_begins_ends_and_is_filled_as_the_tokenizer_has_it(data: bytes, text: str, wanted: list[int]) -> None:
    tokenizer = load_tokenizer(data, section())
    assert tokenizer(text, padding="max_length", max_length=6, truncation=True)["input_ids"] == wanted


def test_the_chosen_file_is_taken_as_it_is_and_no_caption_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(CLIP)

    def captions() -> object:
        raise AssertionError
        yield ""

    assert run_tokenizer(captions(), section(tmp_path / "tokenizer.json")) == CLIP  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "cannot be read"),
        (b"{}", "not a valid tokenizer.json"),
        (b" " * (12 * 2**20 + 1), "more than"),
        (clip_form(*MERGES).replace(b"<|endoftext|>", b"<|stop|>"), "neither CLIP's special tokens nor T5's"),
        (clip_form(*MERGES, ends=False), "does not end a text"),
    ],
)
def test_a_file_that_does_not_do_is_refused_by_name(tmp_path: Path, data: bytes | None, said: str) -> None:
    path = tmp_path / "tokenizer.json"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConfigError, match=said) as error:
        run_tokenizer((), section(path))
    assert str(path) in str(error.value)


def test_a_vocabulary_that_is_too_small_says_what_would_do() -> None:
    with pytest.raises(DataError, match=r"set model\.text\.vocab_size to 8"):
        load_tokenizer(CLIP, section(vocab_size=7))


def test_the_digest_is_of_tokens_and_merges_and_not_of_how_they_are_written() -> None:
    digest = tokenizer_digest(load_tokenizer(CLIP, section()))
    spaced = CLIP.replace(b'":', b'" : ')
    assert spaced != CLIP
    assert tokenizer_digest(load_tokenizer(spaced, section())) == digest
    assert tokenizer_digest(load_tokenizer(clip_form(*MERGES[:1]), section())) != digest


def test_a_tokenizer_in_clips_form_of_other_words_is_not_clips() -> None:
    assert not is_clip_tokenizer(load_tokenizer(CLIP, section()))


def test_the_model_and_its_pipeline_use_the_chosen_tokenizer(tmp_path: Path) -> None:
    save_autoencoder(tmp_path)
    config = tiny_config(*family_overrides(UNET, tmp_path), "model.text.tokenizer='tokenizer.json'")
    model = build_model(config.model, config.objective, CLIP, seed=0)
    assert isinstance(model, UNet)
    assert (model.text_encoder.config.bos_token_id, model.text_encoder.config.eos_token_id) == (6, 7)
    assert model.text_encoder.config.vocab_size == 8
    assert model.tokenize(["A cat"]).ids_BL.tolist() == [[6, 0, 5, 7, 7, 7]]
    seen: list[object] = []
    model.text_encoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].tolist()))
    model.pipeline().encode_prompt("A cat", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    assert seen == [[[6, 0, 5, 7, 7, 7]]]


def test_the_specification_names_the_file_and_not_its_folder() -> None:
    spec = tiny_spec("model.text.tokenizer='/home/operator/secret/clip.json'")
    assert spec.config.model.text.tokenizer == "clip.json"
