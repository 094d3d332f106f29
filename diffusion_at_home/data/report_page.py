"""`report.html`: the report of a build as one page that needs nothing from elsewhere, light or dark as its reader likes.

A template of the standard library is enough for four tables, and keeps a template language out of what builds data. Whatever came
from the source is escaped in the one function through which every text goes.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from string import Template
from typing import Final

from PIL import Image

from diffusion_at_home.data.manifest import DataManifest, Size
from diffusion_at_home.data.report import Report
from diffusion_at_home.data.shards import Sample, decode_image
from diffusion_at_home.errors import storage_errors

PAGE_NAME: Final = "report.html"

_SIDE: Final = 160
"""Of a picture on the page (pixels)."""
_MAX_CAPTION: Final = 200

_PAGE: Final = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$name</title>
<style>
:root { color-scheme: light dark; --line: #8886; --bar: #3b82f6; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin-bottom: 1rem; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem; border-bottom: 1px solid var(--line); }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
td.b { width: 14rem; }
td.b div { background: var(--bar); height: .8rem; margin-top: .35rem; border-radius: .2rem; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(${side}px, 1fr)); gap: 1rem; }
figure { margin: 0; }
figure img { max-width: ${side}px; max-height: ${side}px; border: 1px solid var(--line); }
figcaption { font-size: .85rem; overflow-wrap: anywhere; }
.quiet { opacity: .7; font-size: .85rem; overflow-wrap: anywhere; }
</style>
<h1>$name</h1>
<p>$summary</p>
<p class="quiet">$source<br>Digest $digest</p>
<h2>Sizes</h2>
$buckets
<h2>Licences</h2>
$licenses
<h2>Words of the main caption</h2>
$words
<h2>Refused</h2>
$refused
<h2>Some of the pictures</h2>
<div class="sheet">
$pictures
</div>
</html>
""")


def save_page(folder: Path, manifest: DataManifest, report: Report, pictures: Sequence[tuple[Sample, Size]]) -> None:
    """Write `report.html` into `folder`, with `pictures` on it. Raises `StorageError`."""
    num_refused = report.pictures - report.train_images - report.held_out_images
    page = _PAGE.substitute(
        side=_SIDE,
        name=_text(manifest.name),
        summary=_text(
            f"{report.train_images:,} pictures to train on and {report.held_out_images:,} held out, with "
            f"{report.captions:,} captions, in {len(manifest.train) + len(manifest.held_out):,} shards; "
            f"{num_refused:,} refused. Licence: {manifest.license}."
        ),
        source=_text(manifest.source),
        digest=_text(manifest.digest),
        buckets=_bars((f"{b.width} x {b.height}", b.train + b.held_out) for b in report.buckets),
        licenses=_bars(report.licenses.items()),
        words=_bars(_words(report)),
        refused=_refused(report),
        pictures="\n".join(_figure(sample, size) for sample, size in pictures),
    )
    with storage_errors(folder):
        (folder / PAGE_NAME).write_text(page, encoding="utf-8")


def _text(value: object) -> str:
    return html.escape(str(value))


def _bars(rows: Iterable[tuple[str, int]]) -> str:
    counted = list(rows)
    most = max((count for _, count in counted), default=0) or 1
    lines = [
        f'<tr><td>{_text(label)}</td><td class="n">{count:,}</td>'
        f'<td class="b"><div style="width:{100 * count / most:.1f}%"></div></td></tr>'
        for label, count in counted
    ]
    return f"<table>{''.join(lines)}</table>"


def _words(report: Report) -> Iterator[tuple[str, int]]:
    ends = [f"to {bar.from_words - 1}" for bar in report.caption_words[1:]]
    for bar, end in zip(report.caption_words, (*ends, "and more"), strict=True):
        yield f"{bar.from_words} {end}", bar.pictures


def _refused(report: Report) -> str:
    if not report.refused:
        return "<p>None.</p>"
    lines = []
    for reason, refused in report.refused.items():
        examples = "<br>".join(
            _text(f"{example.name}: {example.detail}" if example.detail else example.name)
            for example in refused.examples
        )
        lines.append(
            f'<tr><td>{_text(reason.value)}</td><td class="n">{refused.count:,}</td><td class="quiet">{examples}</td></tr>'
        )
    return f"<table><tr><th>reason</th><th>pictures</th><th>the first of them</th></tr>{''.join(lines)}</table>"


def _figure(sample: Sample, size: Size) -> str:
    caption = sample.caption if len(sample.caption) <= _MAX_CAPTION else f"{sample.caption[:_MAX_CAPTION]}..."
    return (
        f'<figure><img alt="" src="data:image/webp;base64,{_thumbnail(sample, size)}">'
        f'<figcaption>{_text(caption)}<br><span class="quiet">{_text(sample.license)}</span></figcaption></figure>'
    )


def _thumbnail(sample: Sample, size: Size) -> str:
    picture = decode_image(sample, size, "RGB")
    scale = _SIDE / max(size)
    shown = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    buffer = io.BytesIO()
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    picture.resize(shown, method).save(buffer, format="WEBP", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()
