"""Text: the byte-level BPE tokenizer and the encoders, T5 or CLIP-shaped, all made from nothing unless the operator chooses.

Owns the path from a caption to the encoder's input. Its invariant: a caption gives the same tokens in training, in the
exported pipeline and on every machine, so the tokenizer travels as the bytes of one tokenizer.json and each family cleans
captions exactly as its pipeline cleans a prompt. Every byte has a token, so there is no text that cannot be encoded. Every
caption ends in `</s>`: the empty one is one token long, never none.

Refuses tokenizer bytes that are not such a tokenizer or do not fit the config; JSON is parsed, nothing is unpickled. A tokenizer
that the operator chose has other special tokens (`chosen_tokenizer.py`).
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator

import ftfy
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from diffusion_at_home.config.run import OWN, TextEncoderSection
from diffusion_at_home.errors import ConfigError, DataError
from diffusion_at_home.model.base import Tokens
from diffusion_at_home.model.chosen_tokenizer import load_chosen_tokenizer, read_chosen_tokenizer
from diffusion_at_home.model.tokenizer_errors import tokenizer_errors

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
"""T5's special tokens; their ids are 0, 1 and 2, as T5 has them."""

_SPECIAL_TOKENS = (PAD, EOS, UNK)
_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())  # one character for each of the 256 bytes
_FEWEST_TOKENS = len(_SPECIAL_TOKENS) + len(_ALPHABET)
_MAX_TOKENIZER_BYTES = 16 * 2**20  # a vocabulary of 250,000 takes about 10 MB
_REMEDY = "build the data set again with this config"


def clean_caption(text: str) -> str:
    """`text` as the exported pipeline cleans a prompt: mended Unicode, no HTML entities, no outer white space.

    The same as the private `_basic_clean` in diffusers' `pipeline_prx_pixel.py`; a test compares them.
    """
    text = ftfy.fix_text(text)
    text = html.unescape(html.unescape(text))
    return text.strip()


def run_tokenizer(captions: Iterable[str], config: TextEncoderSection) -> bytes:
    """The tokenizer.json (UTF-8) that `config` asks for: trained on `captions`, or the chosen one, which looks at none.

    Raises `ConfigError` if the chosen one does not fit or the vocabulary is too small, `StorageError`.
    """
    return train_tokenizer(captions, config) if config.tokenizer == OWN else read_chosen_tokenizer(config)


def train_tokenizer(captions: Iterable[str], config: TextEncoderSection) -> bytes:
    """Learn a byte-level BPE from `captions` and return its tokenizer.json (UTF-8).

    A function of the captions' counts alone: neither their order nor the number of threads changes a byte. The
    vocabulary has at most `config.vocab_size` entries, fewer where the captions offer fewer merges.

    Raises `ConfigError` if the vocabulary cannot hold the special tokens and the 256 bytes.
    """
    if config.vocab_size < _FEWEST_TOKENS:
        raise ConfigError(
            f"model.text.vocab_size = {config.vocab_size} cannot hold 256 bytes and {len(_SPECIAL_TOKENS)} special "
            f"tokens: raise it to {_FEWEST_TOKENS} or more"
        )
    tokenizer = Tokenizer(models.BPE())
    # No prefix space: "a" at the start of a caption stays what the person wrote.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=list(_SPECIAL_TOKENS),
        initial_alphabet=_ALPHABET,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_cleaned(captions), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", pair=f"$A {EOS} $B {EOS}", special_tokens=[(EOS, _SPECIAL_TOKENS.index(EOS))]
    )
    data: str = tokenizer.to_str()
    return data.encode()


def placeholder_tokenizer(config: TextEncoderSection) -> bytes:
    """A tokenizer of the size that `config` allows, for planning a run whose captions nobody has seen."""
    names = [*_SPECIAL_TOKENS, *(f"t{number}" for number in range(config.vocab_size - len(_SPECIAL_TOKENS)))]
    data: str = Tokenizer(models.BPE({name: index for index, name in enumerate(names)}, [])).to_str()
    return data.encode()


def load_tokenizer(data: bytes, config: TextEncoderSection) -> PreTrainedTokenizerFast:
    """The tokenizer whose tokenizer.json is `data`, cutting and padding to `config.max_tokens`.

    Raises `DataError` if the bytes are no tokenizer, or not one that `run_tokenizer` could have made for `config`.
    """
    if config.tokenizer != OWN:
        return load_chosen_tokenizer(data, config)
    if len(data) > _MAX_TOKENIZER_BYTES:
        raise DataError(f"the tokenizer has {len(data)} bytes, over the limit of {_MAX_TOKENIZER_BYTES}: {_REMEDY}")
    with tokenizer_errors(_REMEDY):
        tokenizer = Tokenizer.from_buffer(data)
        tokenizer.encode("")
    vocabulary: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    if not isinstance(tokenizer.model, models.BPE) or [vocabulary.get(token) for token in _SPECIAL_TOKENS] != [0, 1, 2]:
        raise DataError(f"the tokenizer is not a BPE whose first tokens are {', '.join(_SPECIAL_TOKENS)}: {_REMEDY}")
    if max(vocabulary.values()) >= config.vocab_size:
        raise DataError(
            f"the tokenizer has token ids up to {max(vocabulary.values())}, which do not fit in "
            f"model.text.vocab_size = {config.vocab_size}: {_REMEDY}"
        )
    with tokenizer_errors(_REMEDY):
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token=PAD,
            eos_token=EOS,
            unk_token=UNK,
            model_max_length=config.max_tokens,
            padding_side="right",
            truncation_side="right",
            clean_up_tokenization_spaces=False,
        )


def build_t5(config: TextEncoderSection, tokenizer: PreTrainedTokenizerFast) -> T5EncoderModel:
    """A T5 v1.1 encoder of random weights for `tokenizer`, drawn from torch's global generator.

    Its MLP is twice as wide as the encoder, gated. There is no dropout: a lease must be recomputable from its seed.

    Raises `ConfigError` if the heads do not divide the width.
    """
    _check_heads(config)
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=config.hidden_size,
            d_kv=config.hidden_size // config.heads,
            d_ff=2 * config.hidden_size,
            num_layers=config.layers,
            num_heads=config.heads,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def build_clip(config: TextEncoderSection, tokenizer: PreTrainedTokenizerFast) -> CLIPTextModel:
    """A text encoder of random weights for `tokenizer`, shaped as Stable Diffusion 1.x has it.

    The weights are drawn from torch's global generator.

    Raises `ConfigError` if the heads do not divide the width.
    """
    _check_heads(config)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=4 * config.hidden_size,
            projection_dim=config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.max_tokens,
            attention_dropout=0.0,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.eos_token_id if tokenizer.bos_token is None else tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def tokens_of(tokenizer: PreTrainedTokenizerFast, captions: list[str]) -> Tokens:
    """Captions to tokens; L is always the tokenizer's `model_max_length`, the last token of a caption is the end token.

    Raises `DataError` if the tokenizer contradicts itself, which shows at some texts only.
    """
    with tokenizer_errors(_REMEDY):
        encoded = tokenizer(
            captions,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
    return Tokens(ids_BL=encoded["input_ids"], mask_BL=encoded["attention_mask"].bool())


def _check_heads(config: TextEncoderSection) -> None:
    if config.hidden_size % config.heads:
        raise ConfigError(
            f"model.text.hidden_size = {config.hidden_size} is not a multiple of model.text.heads = {config.heads}: "
            "change model.text.heads"
        )


def _cleaned(captions: Iterable[str]) -> Iterator[str]:
    return (clean_caption(caption) for caption in captions)
