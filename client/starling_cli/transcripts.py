"""`starling sessions` and `starling transcripts`: what is stored, and the way to get it out or be rid of it."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from session_store.base import SessionSummary, TranscriptStore

STORE_VARIABLE = "STARLING_TRANSCRIPT_STORE"
COMMANDS = ("sessions", "transcripts")

_DEADLINE_S = 10.0
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Adds both commands; `run` executes either."""
    listing = subparsers.add_parser(
        "sessions",
        help="list the stored sessions, newest first, or delete old ones",
        description="Lists the stored sessions, newest first. With --purge, deletes old ones instead.",
    )
    listing.add_argument("--limit", type=_count, default=50, metavar="N", help="at most N sessions (default: 50)")
    listing.add_argument("--key", metavar="ID", help="only those of this API key")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    listing.add_argument(
        "--purge",
        type=_age,
        metavar="AGE",
        help="delete sessions that have not changed for AGE, such as 30d, 12h or 90m",
    )
    _add_store(listing)

    one = subparsers.add_parser(
        "transcripts",
        help="print, export or delete one session's transcript",
        description="Prints one session's transcript, or deletes it.",
    )
    one.add_argument("session", metavar="SESSION", help="the session's id, as `starling sessions` lists it")
    one.add_argument(
        "--format", choices=("text", "json", "srt", "vtt"), default="text", help="of the transcript (default: text)"
    )
    one.add_argument("--output", "-o", type=Path, metavar="FILE", help="write there instead of to the terminal")
    one.add_argument("--delete", action="store_true", help="delete the session and all that was said in it")
    _add_store(one)


def run(args: argparse.Namespace) -> int:
    """Runs a parsed command; returns the exit status."""
    from session_store.base import StoreError
    from session_store.factory import default_transcript_url, open_transcript_store, sqlite_path

    state_dir = Path(os.environ.get("STARLING_STATE_DIR") or ".starling").expanduser().absolute()
    url = args.store or os.environ.get(STORE_VARIABLE) or default_transcript_url(state_dir)
    try:
        path = sqlite_path(url)
        if path is not None and not path.exists():
            raise StoreError(
                f"there are no transcripts at {path}; is this the right folder, or {STORE_VARIABLE} wrong?"
            )
        return asyncio.run(_run(args, open_transcript_store(url, deadline_s=_DEADLINE_S)))
    except (StoreError, ValueError, OSError) as exc:
        print(f"starling {args.command}: {exc}", file=sys.stderr)
        return 1


async def _run(args: argparse.Namespace, store: TranscriptStore) -> int:
    try:
        if args.command == "sessions":
            return await _sessions(args, store)
        return await _transcripts(args, store)
    finally:
        await store.close()


async def _sessions(args: argparse.Namespace, store: TranscriptStore) -> int:
    if args.purge is not None:
        print(f"{await store.purge(older_than_s=args.purge)} sessions deleted")
        return 0
    sessions = await store.sessions(limit=args.limit, key_id=args.key)
    if args.json:
        import orjson

        for session in sessions:
            print(orjson.dumps(asdict(session)).decode())
    elif sessions:
        _print_table(sessions)
    else:
        print("no sessions", file=sys.stderr)
    return 0


async def _transcripts(args: argparse.Namespace, store: TranscriptStore) -> int:
    from session_store.export import export

    session = await store.session(args.session)
    if session is None:
        print(f"starling transcripts: no session {args.session!r}; `starling sessions` lists them", file=sys.stderr)
        return 1
    if args.delete:
        await store.delete_session(args.session)
        print(f"session {args.session} deleted", file=sys.stderr)
        return 0
    document = export(await store.finals(args.session), args.format, session=session)
    if args.output is None:
        sys.stdout.write(document)
    else:
        args.output.write_text(document, "utf-8")
    return 0


def _print_table(sessions: Sequence[SessionSummary]) -> None:
    head = ("SESSION", "STARTED", "STATE", "AUDIO", "FINALS", "LANGUAGE", "LABEL")
    rows = [
        (
            session.session_id,
            datetime.fromtimestamp(session.created_at).strftime("%Y-%m-%d %H:%M:%S"),
            "ended" if session.ended else "open",
            f"{session.audio_seconds:.1f} s",
            str(session.finals),
            session.language,
            # A label is the client's own text: it must not move this terminal's cursor.
            "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in session.label),
        )
        for session in sessions
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store",
        metavar="URL",
        help=f"the transcript store (default: ${STORE_VARIABLE}, or the SQLite file in the state folder)",
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def _age(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an age: write a number and s, m, h, d or w, such as 30d")
    return float(match[1]) * _UNITS[match[2]]
