"""Logs are events: a stable snake_case name and fields. JSON lines to a file, one human line to the terminal."""

from __future__ import annotations

import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final, TextIO

import structlog

MAX_FILE_BYTES: Final = 16 * 2**20
"""After which a file of events is renamed to <name>.1 and a new one begun."""

OLD_FILES: Final = 3
"""<name>.1 to <name>.3 stay: all files together are at most 64 MiB."""


def configure(json_file: Path | None, terminal: TextIO | None = sys.stderr, level: int = logging.INFO) -> None:
    """Send events to `json_file` (appended, one object a line, old ones dropped) and to `terminal`; either may be None."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    handlers: list[logging.Handler] = []
    if json_file is not None:
        file = RotatingFileHandler(json_file, maxBytes=MAX_FILE_BYTES, backupCount=OLD_FILES, encoding="utf-8")
        handlers.append(_handler(file, structlog.processors.JSONRenderer()))
    if terminal is not None:
        console = structlog.dev.ConsoleRenderer(colors=terminal.isatty())
        handlers.append(_handler(logging.StreamHandler(terminal), console))
    root = logging.getLogger("dah")
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    for handler in handlers or [logging.NullHandler()]:
        root.addHandler(handler)
    root.setLevel(level)
    root.propagate = False
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of one component."""
    log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(f"dah.{name}")
    return log


def _handler(handler: logging.Handler, renderer: structlog.typing.Processor) -> logging.Handler:
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=[remove_meta, renderer]))
    return handler
