"""structlog setup; nothing else configures logging. One event = one dotted constant and its facts."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from edged.config import Log, LogFormat


def setup(config: Log) -> None:
    """JSON lines on standard error, or a console rendering on a terminal. Control characters in values cannot inject lines:
    JSON escapes them, and the console renderer shows values by `repr`."""
    console = config.format is LogFormat.CONSOLE or (config.format is LogFormat.AUTO and sys.stderr.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, config.level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
