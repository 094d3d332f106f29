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

from diffusion_at_home.errors import DahError, HardwareError


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
        code = command()  # typer returns the code of what ended early, Ctrl-C among it; our commands return nothing
    except DahError as error:
        return _say(str(error), error.exit_code, debug=debug)
    except TyperException as error:  # a wrong option, or no command at all, whose message is the help
        text = error.format_message()
        if "\n" not in text:
            return _say(f"{text}{_where_help_is(error)}", error.exit_code, debug=False)
        print(text, file=sys.stderr, flush=True)  # noqa: T201
        return error.exit_code
    except (KeyboardInterrupt, Abort):
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except Exception as error:  # noqa: BLE001 -- the command line's boundary
        return _say(*_fault(error), debug=debug)
    return code if isinstance(code, int) else 0


def _say(sentence: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"dah: {one_line(sentence)}", file=sys.stderr, flush=True)  # noqa: T201
    return code


def _fault(error: Exception) -> tuple[str, int]:
    if isinstance(error, ModuleNotFoundError):  # listing and downloading need no torch, drawing and training do
        return f"{error.name} is not installed: pip install 'diffusion-at-home[all]'", HardwareError.exit_code
    return f"a fault of this program ({type(error).__name__}: {error}): run it with `dah --debug` and report it", 1


def _where_help_is(error: TyperException) -> str:
    context = getattr(error, "ctx", None)  # of a UsageError
    return "" if context is None else f" See `{context.command_path} --help`."


def one_line(text: str) -> str:
    """`text` without line ends and control characters: some of it was written by the other side."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


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
    return f"{value:,}" if isinstance(value, int) else one_line(str(value))
