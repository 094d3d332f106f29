"""The page of a report shows what the source says and believes none of it."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from diffusion_at_home.data.manifest import DataManifest, ShardEntry
from diffusion_at_home.data.parts import PictureEntry
from diffusion_at_home.data.report import Report, Tally
from diffusion_at_home.data.report_page import PAGE_NAME, save_page
from diffusion_at_home.data.shards import Sample
from diffusion_at_home.data.sources.source import Reason
from tests.unit.picture_folder import picture

NASTY = "</td><script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)>\"'&$name"


def entry(license_name: str, words: int = 3) -> PictureEntry:
    return PictureEntry(
        name="a",
        license=license_name,
        caption_words=words,
        captions=2,
        suffix="jpg",
        width=48,
        height=48,
        hash="",
        offset=0,
        image_bytes=1,
        facts_bytes=1,
    )


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = list[tuple[str, dict[str, str | None]]]()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_nothing_from_the_source_becomes_markup_or_a_request(tmp_path: Path) -> None:
    tally = Tally()
    tally.keep(entry(NASTY))
    tally.write("train", (48, 48), 1)
    tally.refuse(NASTY, Reason.UNREADABLE, NASTY)
    shard = ShardEntry(name="train-0.tar", sha256="0" * 64, size_bytes=1, num_samples=1, width=48, height=48)
    manifest = DataManifest(name=NASTY[:64], source=NASTY, license=NASTY, train=(shard,))
    sample = Sample("a", picture(0), "jpg", NASTY, NASTY, NASTY)
    save_page(tmp_path, manifest, tally.report(), [(sample, (48, 48))])
    page = Tags()
    page.feed((tmp_path / PAGE_NAME).read_text(encoding="utf-8"))
    assert not {"script", "link", "iframe", "a"} & {tag for tag, _ in page.seen}
    images = [attributes for tag, attributes in page.seen if tag == "img"]
    assert [str(attributes["src"])[:23] for attributes in images] == ["data:image/webp;base64,"]
    assert not [name for _, attributes in page.seen for name in attributes if name.startswith("on")]
    assert page.text.count(NASTY) == 7


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    tally = Tally()
    for words in (0, 4, 5, 16, 17, 500):
        tally.keep(entry("CC0-1.0", words))
    tally.refuse("b", Reason.BLANK)
    report = tally.report()
    report.save(tmp_path)
    assert Report.load(tmp_path) == report
    assert [bar.pictures for bar in report.caption_words] == [2, 1, 1, 1, 0, 0, 1]
    assert (report.captions, report.licenses) == (12, {"CC0-1.0": 6})


def test_no_number_of_licences_fills_the_memory() -> None:
    tally = Tally()
    for number in range(500):
        tally.keep(entry(f"licence {number}"))
    assert len(tally.report().licenses) == 101
    assert sum(tally.report().licenses.values()) == 500
    assert tally.license == "various"
