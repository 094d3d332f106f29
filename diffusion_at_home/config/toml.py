"""Strict TOML loading: every mistake is one sentence that names the key, and a misspelt key names the nearest real one."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from diffusion_at_home.config.shipped import find_config
from diffusion_at_home.errors import ConfigError


class Section(BaseModel):
    """Base of every table in a config file: frozen, no unknown keys, field docstrings as descriptions."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


ConfigT = TypeVar("ConfigT", bound=Section)

_MOST_CHARACTERS: Final = 300
"""Of a key, or of another library's words, in a sentence for people."""


def load_toml(path: Path | None, schema: type[ConfigT], overrides: Sequence[str] = ()) -> ConfigT:
    """Read `path` (None is an empty file) into `schema`, then apply `section.key=value` overrides.

    A path that is not there and begins with configs/ names a shipped file (`find_config`).
    Raises `ConfigError` on any mistake.
    """
    data = {} if path is None else _read(find_config(path))
    for override in overrides:
        _apply_override(data, override)
    sources = ([] if path is None else [str(path)]) + (["--set"] if overrides else [])
    return parse(data, schema, source=" with ".join(sources) or "settings")


def parse(data: Mapping[str, Any], schema: type[ConfigT], source: str) -> ConfigT:
    """Validate plain data against `schema`; raise `ConfigError` with the first mistake, worded for a person."""
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_sentence(error, schema)}") from None


def first_mistake(error: ValidationError) -> str:
    """The first mistake in data that another machine wrote, short: its place, if it has one, and what is wrong there."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where[:200]}: {first['msg'][:300]}" if where else first["msg"][:300]


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist: name a config file, for example configs/digits.toml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path} is not valid TOML: it is nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits is none of the parser's own errors
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def _apply_override(data: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted.strip():
        raise ConfigError(f"--set {override!r} must look like section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (RecursionError, ValueError):
        value = text  # a bare word is a string, as in a shell
    *parents, key = dotted.strip().split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} is a value, not a section")
    data[key] = value


def _sentence(error: ValidationError, schema: type[Section]) -> str:
    mistakes = error.errors()
    # A misspelt key is also a missing one: the misspelling tells more.
    first = next((mistake for mistake in mistakes if mistake["type"] == "extra_forbidden"), mistakes[0])
    path = [str(part) for part in first["loc"]]
    dotted = ".".join(path)[:_MOST_CHARACTERS]
    match first["type"]:
        case "extra_forbidden":
            keys = list(_section_at(schema, path[:-1]).model_fields)
            nearest = difflib.get_close_matches(path[-1], keys, n=1, cutoff=0.4)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"known keys are {', '.join(sorted(keys))}"
            return f"unknown key {dotted!r}; {hint}"
        case "missing":
            return f"key {dotted!r} is missing{_meaning(schema, path)}"
        case "model_type":
            return f"{dotted!r} must be a section of keys, not {_short(first['input'])}"
        case "value_error":
            reason = str(first["ctx"]["error"]) if "ctx" in first else first["msg"]
            return f"{dotted}: {reason}" if dotted else reason
        case _:
            reason = f"{first['msg'][0].lower()}{first['msg'][1:]}"
            return f"{dotted} = {_short(first['input'])}: {reason}{_meaning(schema, path)}"


def _short(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _meaning(schema: type[BaseModel], path: Sequence[str]) -> str:
    """What the key at `path` is, in the words of its unit line."""
    *parents, key = path
    field = _section_at(schema, parents).model_fields.get(key)
    words = " ".join((field.description or "").split()) if field else ""
    return f" ({words.rstrip('.')})" if words else ""


def _section_at(schema: type[BaseModel], path: Sequence[str]) -> type[BaseModel]:
    """The section at `path`, or the last one on the way to it: a place within a list has no section of its own."""
    for part in path:
        annotation = schema.model_fields[part].annotation if part in schema.model_fields else None
        candidates = (annotation, *get_args(annotation))
        schema = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), schema)
    return schema
