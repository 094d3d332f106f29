"""One value of a volunteer's settings, read, or changed in the file with everything else in it left as it was written."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from diffusion_at_home.config.toml import parse
from diffusion_at_home.errors import ConfigError
from worker.atomic_file import write_atomically
from worker.settings import WorkerSettings


def value_of(settings: WorkerSettings, key: str) -> Any:
    """The setting `key`, as in hours.monday, in plain types. Raises `ConfigError` that names the nearest key."""
    found: Any = settings.model_dump(mode="json")
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            known = list(_keys(settings.model_dump(mode="json")))
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"known keys are {', '.join(sorted(known))}"
            raise ConfigError(f"unknown key {key[:80]!r}; {hint}")
        found = found[part]
    return found


def set_value(path: Path, key: str, text: str) -> WorkerSettings:
    """Set `key` in the file at `path`, which is made if it is not there; returns all that the file then says.

    `text` is a TOML value, or a string without its quotes. Raises `ConfigError` if the settings would not hold, and
    `StorageError`; then the file is as it was.
    """
    path = path.resolve()  # of a link, the file itself is replaced
    before = _read(path)
    _parsed(before, path)
    refusal: ConfigError | None = None
    for value in _readings(text):
        document = _parsed(before, path)
        _put(document, key.split("."), value)
        after = tomlkit.dumps(document)
        try:
            settings = parse(_parsed(after, path).unwrap(), WorkerSettings, source=f"{path} with {key} = {text[:80]}")
        except ConfigError as error:
            refusal = refusal or error
            continue
        mode = path.stat().st_mode if path.exists() else None
        write_atomically(path, after.encode())
        if mode is not None:
            path.chmod(mode)
        return settings
    assert refusal is not None
    raise refusal


def _readings(text: str) -> Sequence[Any]:
    """What may be meant: a TOML value, or else a string."""
    try:
        read = tomlkit.parse(f"value = {text}").unwrap()
    except TOMLKitError:
        return (text,)
    return (read["value"], text) if len(read) == 1 else (text,)


def _put(document: tomlkit.TOMLDocument, path: Sequence[str], value: Any) -> None:
    *parents, key = path
    table: Any = document
    for parent in parents:
        if parent not in table:
            table[parent] = tomlkit.table()
        table = table[parent]
        if not isinstance(table, Mapping):
            raise ConfigError(f"{'.'.join(path)[:80]!r}: {parent!r} is a value, not a section")
    table[key] = value


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    return text if text.endswith("\n") or not text else f"{text}\n"


def _parsed(text: str, path: Path) -> tomlkit.TOMLDocument:
    try:
        return tomlkit.parse(text)
    except (TOMLKitError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def _keys(data: Mapping[str, Any], above: str = "") -> Sequence[str]:
    found: list[str] = []
    for key, value in data.items():
        found += _keys(value, f"{above}{key}.") if isinstance(value, Mapping) and value else [f"{above}{key}"]
    return found
