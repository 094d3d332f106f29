"""How every command ends: a result for people or as one JSON object, or one sentence and an exit code."""

from __future__ import annotations

import json
import math
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from typer import Abort
from typer.exceptions import TyperException

from diffusion_at_home.errors import DahError


def emit(result: Mapping[str, Any], as_json: bool) -> None:
    """Print `result`: as the last line of standard output, one JSON object; or a line a key for people."""
    if as_json:
        print(json.dumps(_plain(result), allow_nan=False), flush=True)  # noqa: T201 -- the command's result
        return
    width = max((len(key) for key in result), default=0)
    for key, value in result.items():
        print(f"{key.replace('_', ' '):<{width}}  {_shown(value)}", flush=True)  # noqa: T201


def run_command(command: Callable[[], object], *, debug: bool) -> int:
    """Run a command to its exit code; whatever it raises becomes one sentence on standard error, never a traceback.

    With `debug` a traceback comes first.
    """
    try:
        command()
    except DahError as error:
        return _say(str(error), error.exit_code, debug=debug)
    except TyperException as error:  # a wrong option, or no command at all, which shows the help
        text = error.format_message()
        return _say(text, error.exit_code, debug=False, prefix="" if "\n" in text else "dah: ")
    except (KeyboardInterrupt, Abort):
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except Exception as error:  # noqa: BLE001 -- the command line's boundary
        sentence = f"a fault of this program ({type(error).__name__}: {error}): run it with `dah --debug` and report it"
        return _say(" ".join(sentence.split()), 1, debug=debug)
    return 0


def _say(sentence: str, code: int, *, debug: bool, prefix: str = "dah: ") -> int:
    if debug:
        traceback.print_exc()
    print(f"{prefix}{sentence}", file=sys.stderr, flush=True)  # noqa: T201
    return code


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no infinity
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_shown(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(_shown(item) for item in value) or "none"
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)
