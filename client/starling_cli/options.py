"""What several subcommands ask for and how they complain."""

from __future__ import annotations

import argparse
import os
import sys

import starling_client

DEFAULT_URL = "ws://127.0.0.1:8000/stream"


def add_connection_options(parser: argparse.ArgumentParser) -> None:
    """Add `--url` and `--api-key`, whose defaults come from the environment."""
    group = parser.add_argument_group("server")
    group.add_argument(
        "--url",
        default=os.environ.get("STARLING_URL") or DEFAULT_URL,
        help=f"where the server listens (default: $STARLING_URL, or {DEFAULT_URL})",
    )
    group.add_argument(
        "--api-key",
        default=os.environ.get("STARLING_API_KEY") or None,
        metavar="KEY",
        help="the key, where the server wants one (default: $STARLING_API_KEY, which other users do not see)",
    )


def explain(error: Exception, url: str) -> str:
    """Return one line that says what is wrong and what to do about it."""
    text = str(error)
    if isinstance(error, starling_client.ConnectError):
        if error.status is None:
            return f"{text}: start it with `make serve`, or give its address with --url"
        if error.status == 503:
            wait = f" in {error.retry_after_s:.0f} s" if error.retry_after_s else " later"
            return f"the server at {url} is full or going down: try again{wait}"
    if isinstance(error, starling_client.SessionLostError):
        return f"the server at {url} did not come back: {text}"
    return text


def complain(text: str) -> None:
    """Print one line to stderr."""
    print(f"starling: {text}", file=sys.stderr)
