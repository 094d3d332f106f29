"""The model card: what the weights are, what they are made from and by whom, and the one line that loads them."""

from __future__ import annotations

import json
import re
from typing import Final

from diffusion_at_home.checkpoint.manifest import CheckpointManifest

_MOST_CONTRIBUTORS: Final = 50

_CARD: Final = """\
---
license: {license}
library_name: diffusers
pipeline_tag: text-to-image
tags:
- text-to-image
- diffusion-at-home
---
# {title}

Trained from random weights by {num_workers} volunteer machines together: {images:,} images in {version:,} rounds.

![samples](grid.png)

```python
import torch
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("path/to/this/folder")  # or the name of this repository on a hub
image = pipe({prompt}, {call}).images[0]
```

The default weights are `{default_weights}`; `variant="{other_weights}"` loads the other set (`ema` is the average over the last
rounds, `raw` the last version itself). The default is the one with the lower held-out loss.

{single_file}

## How good it is
Loss on pictures that nobody trained on: {losses}. By time t of the default weights (0 is the picture, 1 is noise): {bins}.
{curve}
## What to expect
Its pictures show what its data shows, as often as its data does. Nothing filters what it draws. How it was trained is below.

## What it is made from
| | |
|---|---|
| data | {data_name}, {data_images:,} images, licence {data_license} |
| source | {data_source} |
| data manifest (sha256) | `{data_digest}` |
| run | {run_id}, version {version} |
| weights of that version (sha256) | `{weights_digest}` |
| text encoder | {text_encoder} |
| parameters | {parameters:,} |
| software | {software} |

Each picture keeps its own licence, source and author in the data set.

## Who made it
Names are those that volunteers chose to give; who gave none is here by the id of a key.

| volunteer | id | images |
|---|---|---|
{contributors}

## How to verify it
`manifest.json` has the sha256 of every file: `dah checkpoint verify FOLDER` checks them all, and that there is no other. Where
`signature.json` lies beside it, `--key HEX` checks whose word that is: take the run's release key from where you trust it, not
from here. `rounds.json` has the digests of all rounds that led to these weights.
The weights are safetensors; nothing here is code.

## The run's configuration
```json
{config}
```
"""


def model_card(manifest: CheckpointManifest, prompt: str, single_file: str, *, curve: str | None) -> str:
    """The card in Markdown.

    Args:
        manifest: of the checkpoint.
        prompt: the example.
        single_file: a sentence on whom there is one file for.
        curve: file of the curve of held-out loss beside the card; None if there is none.
    """
    other = "raw" if manifest.default_weights == "ema" else "ema"
    losses = ", ".join(f"{which} {_number(loss)}" for which, loss in sorted(manifest.held_out_loss.items()))
    return _CARD.format(
        license=json.dumps(manifest.license.lower()),  # as Hugging Face spells them
        title=escape(manifest.title or manifest.run),
        num_workers=len(manifest.contributors),
        images=manifest.images,
        version=manifest.version,
        prompt=repr(prompt),
        call=", ".join(f"{key}={value!r}" for key, value in manifest.call.items()),
        default_weights=manifest.default_weights,
        single_file=single_file,
        other_weights=other,
        losses=losses,
        curve="" if curve is None else f"\n![held-out loss by images trained]({curve})\n",
        bins=", ".join(_number(loss) for loss in manifest.held_out_bins),
        data_name=escape(manifest.data.name),
        data_images=manifest.data.images,
        data_license=escape(manifest.data.license),
        data_source=escape(manifest.data.source),
        data_digest=manifest.data.digest,
        run_id=manifest.run_id,
        weights_digest=manifest.weights_digest,
        parameters=manifest.parameters,
        text_encoder=_text_encoder(manifest),
        software=", ".join(f"{name} {version}" for name, version in sorted(manifest.software.items())),
        contributors=contributor_rows(manifest),
        config=json.dumps(manifest.config, indent=1, sort_keys=True).replace("```", "` ` `"),
    )


def escape(text: str) -> str:
    """`text` as Markdown that stays in its cell: volunteers choose their names, and some choose badly."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~&:@.-])", r"\\\1", flat)


def _text_encoder(manifest: CheckpointManifest) -> str:
    name = manifest.config.get("model", {}).get("text", {}).get("encoder")
    return f"pretrained elsewhere and left as it was: {escape(name)}" if name else "trained with the rest"


def contributor_rows(manifest: CheckpointManifest) -> str:
    """The rows of the table of who has trained what, the most first, as many as a page bears."""
    shown = manifest.contributors[:_MOST_CONTRIBUTORS]
    rows = [f"| {escape(c.display_name) or '-'} | `{c.worker_id}` | {c.images:,} |" for c in shown]
    rest = manifest.contributors[_MOST_CONTRIBUTORS:]
    if rest:
        rows.append(f"| and {len(rest)} more | | {sum(c.images for c in rest):,} |")
    return "\n".join(rows)


def _number(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.4f}"
