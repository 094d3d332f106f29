"""Makes what transformers 5 writes readable by transformers 4 too, which many downloaders still have; 5 reads both forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from safetensors.torch import load_file, save_file

_PIPELINE_FILES: Final = ("model_index.json", "tokenizer/tokenizer_config.json")
_PREFIX: Final = "text_model."


def for_transformers_4(folder: Path) -> None:
    """Rename, in the pipeline saved in `folder`, the tokenizer's class and the weights of a CLIP text encoder.

    Version 4 does not know the class `TokenizersBackend`; and it would leave a `CLIPTextModel` at random weights whose names
    do not begin with `text_model.`, a warning apart.
    """
    for name in _PIPELINE_FILES:
        path = folder / name
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace('"TokenizersBackend"', '"PreTrainedTokenizerFast"'), encoding="utf-8")
    encoder = folder / "text_encoder"
    if json.loads((encoder / "config.json").read_text(encoding="utf-8"))["model_type"] != "clip_text_model":
        return
    for path in sorted(encoder.glob("*.safetensors")):
        weights = {_PREFIX + name.removeprefix(_PREFIX): tensor for name, tensor in load_file(path).items()}
        draft = path.with_suffix(".part")  # what was read is still mapped from `path`
        save_file(weights, draft, metadata={"format": "pt"})
        draft.replace(path)
