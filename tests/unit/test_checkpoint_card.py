"""The model card says what the manifest says, and no name in it can be more than a name."""

from __future__ import annotations

import ast
import json
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from diffusion_at_home.checkpoint.card import escape, model_card
from diffusion_at_home.checkpoint.manifest import CheckpointManifest, Contributor, DataOrigin

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[free cards](http://evil.example)",
    "![x](http://evil.example/x.png)",
    "a | b | 999,999 |",
    "line\n| forged | row | 1 |\n\n# Heading",
    "`code` ```\n# out of the fence",
    "**bold** _it_ ~~gone~~",
    "http://evil.example and www.evil.example and mallory@evil.example",
    "&lt;b&gt; &#60;b&#62;",
    "\\| \\",
    "{images} %s {0}",
    "\u202egnp.exe\u2066 \x1b[31mred\x07",
)


def manifest(**changes: object) -> CheckpointManifest:
    facts: dict[str, object] = {
        "name": "tiny-000000100",
        "run_id": "tiny-00000000",
        "run": "tiny",
        "title": "Squares",
        "version": 3,
        "images": 100,
        "weights_digest": "3" * 64,
        "default_weights": "ema",
        "held_out_loss": {"raw": None, "ema": 0.25},
        "held_out_bins": (0.1, None),
        "parameters": 12_345,
        "license": "Apache-2.0",
        "created": "2023-11-14T22:13:20+00:00",
        "data": DataOrigin(name="squares", digest="4" * 64, source="drawn", license="CC0-1.0", images=90),
        "contributors": (Contributor(worker_id="0" * 16, display_name="Ada", images=100),),
        "config": {"run": {"name": "tiny"}},
        "software": {"torch": "2"},
        "call": {"use_resolution_binning": False, "guidance_scale": 2.0},
        "files": {},
    }
    return CheckpointManifest.model_validate(facts | changes)


def tokens(markdown: str) -> list[Token]:
    """All tokens of the card without its front matter, the inline ones too, as GitHub and Hugging Face see tables."""
    body = markdown.split("\n---\n", 1)[-1]
    blocks = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(body)
    return [token for block in blocks for token in (block, *(block.children or ()))]


def contributors_named(*names: str) -> CheckpointManifest:
    return manifest(contributors=tuple(Contributor(worker_id="0" * 16, display_name=n[:64], images=1) for n in names))


def shown(name: str) -> str:
    """A name as it should be read: on one line, of printable characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in name).split())


def card_of(manifest: CheckpointManifest, prompt: str) -> str:
    return model_card(manifest, prompt, "There is no single file.", curve=None)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_shown_as_it_is_written_and_does_nothing(name: str) -> None:
    harmless, hostile = (tokens(card_of(contributors_named(n), "x")) for n in ("Ada", name))
    assert [token.type for token in hostile if token.type != "text_special"] == [token.type for token in harmless]
    cells = [token for token in hostile if token.type == "inline"]
    texts = ["".join(child.content for child in cell.children or ()) for cell in cells]
    assert shown(name[:64]) in texts


@given(st.text(max_size=64))
def test_any_name_stays_in_its_cell(name: str) -> None:
    parsed = MarkdownIt("commonmark").enable("table").parse(f"| a |\n|---|\n| {escape(name) or '-'} |\n")
    cells = [token for token in parsed if token.type == "inline"]
    assert len(cells) == 2
    assert {child.type for child in cells[1].children or ()} <= {"text", "text_special"}
    assert "".join(child.content for child in cells[1].children or ()) == (shown(name) or "-")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_titles_and_sources_do_nothing(text: str) -> None:
    data = DataOrigin(name=text, digest="4" * 64, source=text, license=text, images=90)
    kinds = [token.type for token in tokens(card_of(manifest(title=text, data=data), "x"))]
    assert [kind for kind in kinds if kind != "text_special"] == [
        token.type for token in tokens(card_of(manifest(), "x"))
    ]


@pytest.mark.parametrize("name", ["www.evil.example", "http://evil.example", "m@evil.example"])
def test_a_name_is_not_linked_by_those_who_link_bare_addresses(name: str) -> None:
    assert not re.search(r"www\.|[a-z]://|\w@", escape(name))


def prompt_in(card: str) -> str:
    (code,) = (token.content for token in tokens(card) if token.type == "fence" and token.info == "python")
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    (call,) = (node for node in calls if isinstance(node.func, ast.Name) and node.func.id == "pipe")
    prompt = ast.literal_eval(call.args[0])
    assert isinstance(prompt, str)
    return prompt


@given(st.text())
def test_any_prompt_makes_a_snippet_that_is_python(prompt: str) -> None:
    assert prompt_in(card_of(manifest(), prompt)) == prompt


@pytest.mark.parametrize("prompt", ['"); import os; ("', "```\n# out", "a 😀 smile", "\\", "a\u2028b", "'''"])
def test_a_hostile_prompt_stays_a_string(prompt: str) -> None:
    assert prompt_in(card_of(manifest(), prompt)) == prompt


@pytest.mark.parametrize("text", ["```\n# out", "</code>", "é"])
def test_the_config_is_json_that_ends_where_it_should(text: str) -> None:
    card = card_of(manifest(config={"run": {"title": text}}), "x")
    (block,) = (token.content for token in tokens(card) if token.type == "fence" and token.info == "json")
    assert json.loads(block.replace("` ` `", "```")) == {"run": {"title": text}}
    assert [token.content for token in tokens(card) if token.type == "html_block"] == []


@pytest.mark.parametrize(("spdx", "wanted"), [("Apache-2.0", "apache-2.0"), ("x\n---\n# y: [", "x\n---\n# y: [")])
def test_the_front_matter_is_yaml(spdx: str, wanted: str) -> None:
    card = card_of(manifest(license=spdx), "x")
    front = yaml.safe_load(card.split("\n---\n", 1)[0])
    assert front["license"] == wanted
    assert front["library_name"] == "diffusers"


def test_many_contributors_are_summed_up_in_a_last_row() -> None:
    card = card_of(contributors_named(*[f"v{index}" for index in range(53)]), "x")
    assert "| and 3 more | | 3 |" in card
    assert "by 53 volunteer machines" in card


def test_losses_that_are_not_finite_are_said_to_be() -> None:
    assert "ema 0.2500, raw not finite" in card_of(manifest(), "x")


def test_the_curve_is_shown_where_there_is_one() -> None:
    def pictures(card: str) -> list[object]:
        return [token.attrs["src"] for token in tokens(card) if token.type == "image"]

    assert pictures(card_of(manifest(), "x")) == ["grid.png"]
    assert pictures(model_card(manifest(), "x", "None.", curve="loss.png")) == ["grid.png", "loss.png"]
