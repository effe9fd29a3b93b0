"""Logging: structlog, one JSON object a line in production, readable on a terminal."""

from __future__ import annotations

import logging
import sys

import orjson
import structlog

from server.config import Settings

NOISY = ("websockets", "websockets.server", "asyncio", "alembic", "sqlalchemy")
"""Libraries that log every handshake that fails or every statement; what matters of it we log ourselves."""


def configure(settings: Settings) -> None:
    """Sets up logging for the process; goes to standard error."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if as_json:
        renderer: list[structlog.typing.Processor] = [
            # Without local variables: they hold tokens and what was said.
            structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(serializer=lambda value, **_: orjson.dumps(value, default=str).decode()),
        ]
    else:
        plain = structlog.dev.plain_traceback
        renderer = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr
    )
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
