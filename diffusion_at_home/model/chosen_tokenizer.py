"""A tokenizer that an operator chooses instead of one trained on the run's captions: a tokenizer.json by path.

A tokenizer.json does not say which of its tokens begin, end and fill a text, so those of CLIP and of T5 are known by name. Its
contract is that of the run's own: every text ends in the end token, and the empty one is one token or more.

Refuses what is neither, and what does not fit `model.text.vocab_size`; JSON is parsed, nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from diffusion_at_home.config.run import TextEncoderSection
from diffusion_at_home.errors import ConfigError, DataError
from diffusion_at_home.model.tokenizer_errors import tokenizer_errors

_MAX_BYTES: Final = 12 * 2**20
"""A vocabulary of 250,000 takes about 10 MB; the whole specification of a run, which it is part of, may have 16 MiB."""

_CLIP_DIGEST: Final = "5d827db2c026571b4380d244cf6012f0c5092b3b109d297c2e357a7ac598af06"
"""`tokenizer_digest` of OpenAI's CLIP (github.com/openai/CLIP, clip/bpe_simple_vocab_16e6.txt.gz)."""
_REMEDY: Final = "name another model.text.tokenizer"
_CLIP_PROBE: Final = ("A photo  of a CAT", [49406, 320, 1125, 539, 320, 2368, 49407])
"""A text and its tokens in CLIP's vocabulary: lower case, one space, a token at each end."""


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The tokens that are no text."""

    begin: str | None
    end: str
    fill: str
    unknown: str


_KNOWN: Final = (
    SpecialTokens(begin="<|startoftext|>", end="<|endoftext|>", fill="<|endoftext|>", unknown="<|endoftext|>"),  # CLIP
    SpecialTokens(begin=None, end="</s>", fill="<pad>", unknown="<unk>"),  # T5
)


def read_chosen_tokenizer(config: TextEncoderSection) -> bytes:
    """The file that `config.tokenizer` names. Raises `ConfigError` if it is no tokenizer for `config`."""
    path = Path(config.tokenizer)
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"model.text.tokenizer = {config.tokenizer!r} cannot be read ({error.strerror}): name a tokenizer.json, or 'own'"
        ) from None
    try:
        load_chosen_tokenizer(data, config)
    except DataError as error:
        raise ConfigError(f"model.text.tokenizer = {config.tokenizer!r}: {error}") from None
    return data


def load_chosen_tokenizer(data: bytes, config: TextEncoderSection) -> PreTrainedTokenizerFast:
    """The tokenizer whose tokenizer.json is `data`, cutting and padding to `config.max_tokens`. Raises `DataError`."""
    if len(data) > _MAX_BYTES:
        raise DataError(f"it has more than {_MAX_BYTES} bytes: name another model.text.tokenizer")
    with tokenizer_errors(_REMEDY):
        tokenizer = Tokenizer.from_buffer(data)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        empty = tokenizer.encode("").ids
    vocabulary: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    special = next((known for known in _KNOWN if known.end in vocabulary and known.fill in vocabulary), None)
    if special is None:
        raise DataError("neither CLIP's special tokens nor T5's are in it: name another model.text.tokenizer")
    if max(vocabulary.values()) >= config.vocab_size:
        raise DataError(
            f"its token ids go up to {max(vocabulary.values())}, over model.text.vocab_size = {config.vocab_size}: set "
            f"model.text.vocab_size to {max(vocabulary.values()) + 1}"
        )
    if empty[-1:] != [vocabulary[special.end]]:
        raise DataError(f"it does not end a text with {special.end}: name another model.text.tokenizer")
    with tokenizer_errors(_REMEDY):
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token=special.begin,
            eos_token=special.end,
            pad_token=special.fill,
            unk_token=special.unknown,
            model_max_length=config.max_tokens,
            padding_side="right",
            truncation_side="right",
            clean_up_tokenization_spaces=False,
        )


def is_clip_tokenizer(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether it makes the tokens that A1111 and ComfyUI make, which bring CLIP's own vocabulary and read no other."""
    text, wanted = _CLIP_PROBE
    return tokenizer_digest(tokenizer) == _CLIP_DIGEST and tokenizer(text)["input_ids"] == wanted


def tokenizer_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """sha256 (hex) of a tokenizer's tokens in the order of their ids, and of its merges in theirs, a line each."""
    vocabulary = tokenizer.get_vocab()
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"].get("merges", [])
    lines = [*sorted(vocabulary, key=vocabulary.__getitem__), *(" ".join(merge) for merge in merges)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def tokenizer_beside(config: TextEncoderSection) -> PreTrainedTokenizerFast:
    """The tokenizer in the folder or hub id of the frozen encoder, cutting and padding to `config.max_tokens`.

    Its tokenizer_config.json says which of its tokens are special. Raises `ConfigError`.
    """
    name, path = config.encoder, Path(config.encoder) / "tokenizer.json"
    remedy = "name another model.text.encoder, or a tokenizer.json in model.text.tokenizer"
    if Path(name).is_dir() and not path.is_file():
        raise ConfigError(f"{path} does not exist: {remedy}")
    try:
        if path.is_file():
            Tokenizer.from_buffer(path.read_bytes())  # says what is wrong with it
        found = PreTrainedTokenizerFast.from_pretrained(
            name, model_max_length=config.max_tokens, clean_up_tokenization_spaces=False
        )
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ConfigError(
            f"the tokenizer of model.text.encoder = {name!r} cannot be read ({reason}): {remedy}"
        ) from None
    found.name_or_path = ""
    if found.pad_token is None:
        raise ConfigError(f"the tokenizer of model.text.encoder = {name!r} has no token to fill up with: {remedy}")
    if max(found.get_vocab().values()) >= config.vocab_size:
        raise ConfigError(
            f"the tokenizer of model.text.encoder = {name!r} has token ids up to {max(found.get_vocab().values())}, but the "
            f"encoder embeds {config.vocab_size} only: {remedy}"
        )
    if not found("")["input_ids"]:
        raise ConfigError(f"the tokenizer of model.text.encoder = {name!r} has no token for an empty text: {remedy}")
    return found
