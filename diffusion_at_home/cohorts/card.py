"""The model card of a checkpoint that is made of cohorts' experts."""

from __future__ import annotations

import json
from typing import Final

from diffusion_at_home.checkpoint.card import contributor_rows, escape
from diffusion_at_home.checkpoint.manifest import CohortsManifest
from diffusion_at_home.cohorts.router import RouterFacts

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

{num_experts} experts, each trained from random weights by volunteers' machines on its own part of the data, and a router that
says whose turn it is: {images:,} images in all. No gradient has passed between the parts.

![samples](grid.png)

```python
from diffusers import DiffusionPipeline

# or the name of this repository on a hub
pipe = DiffusionPipeline.from_pretrained("path/to/this/folder", trust_remote_code=True)
image = pipe({prompt}, {call}, top_k={top_k}).images[0]
```

`trust_remote_code=True` lets diffusers run `pipeline.py` of this folder, which puts the experts together. It is short, opens
nothing, and is the same in every such checkpoint: `dah checkpoint verify FOLDER` compares it with its own copy. All other files
are safetensors, JSON and pictures. `top_k` is how many experts each step asks.

## What it is made from
| cohort | run | checkpoint | images |
|---|---|---|---|
{experts}

Their manifests are `experts/1.json` and so on; the weights here are theirs, byte for byte. The data is {data_name}:
{data_images:,} images, licence {data_license}, from {data_source} (manifest `{data_digest}`). Each picture keeps its own licence,
source and author.

The router names the right cohort of pictures that nobody trained on, where always naming the largest gets {chance:.0%}:

| time t (0 is the picture, 1 is noise) | {times} |
|---|{bars}
| with the caption | {accuracy} |
| without | {without} |

Nothing filters what it draws.

## Who made it
Names are those that volunteers chose to give; who gave none is here by the id of a key.

| volunteer | id | images |
|---|---|---|
{contributors}

## The configuration of the first run
```json
{config}
```
"""


def cohorts_card(manifest: CohortsManifest, facts: RouterFacts, top_k: int) -> str:
    """The card in Markdown."""
    prompts = manifest.config.get("checkpoint", {}).get("grid_prompts") or ["a picture"]
    return _CARD.format(
        license=json.dumps(manifest.license.lower()),
        title=escape(manifest.title or manifest.run),
        num_experts=len(manifest.cohorts),
        images=manifest.images,
        prompt=repr(prompts[0]),
        call=", ".join(f"{key}={value!r}" for key, value in manifest.call.items()),
        top_k=top_k,
        experts="\n".join(
            f"| {number} | {one.run_id} | {one.name} | {one.images:,} |"
            for number, one in enumerate(manifest.cohorts, start=1)
        ),
        data_name=escape(manifest.data.name),
        data_images=manifest.data.images,
        data_license=escape(manifest.data.license),
        data_source=escape(manifest.data.source),
        data_digest=manifest.data.digest,
        chance=facts.chance,
        times=" | ".join(f"{t:g}" for t in facts.times),
        bars="---|" * len(facts.times),
        accuracy=" | ".join(f"{share:.0%}" for share in facts.accuracy),
        without=" | ".join(f"{share:.0%}" for share in facts.accuracy_without_caption),
        contributors=contributor_rows(manifest),
        config=json.dumps(manifest.config, indent=1, sort_keys=True).replace("```", "` ` `"),
    )
