"""`starling keys`: makes, lists and revokes API keys. A running server follows within a second."""

from __future__ import annotations

import argparse
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from server.keys import Key

FILE_VARIABLE = "STARLING_KEYS_FILE"

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Adds the command; `run` executes it."""
    parser = subparsers.add_parser(
        "keys",
        help="make, list and revoke API keys",
        description="Makes, lists and revokes API keys. A running server follows within a second.",
    )
    parser.add_argument(
        "--file",
        type=Path,
        metavar="FILE",
        help=f"the keys file (default: ${FILE_VARIABLE}, or keys.json in the state folder)",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="make a key and print it, this once")
    add.add_argument("name", metavar="NAME", help="who or what it is for; shown by `list` only")
    add.add_argument("--sessions", type=_count, metavar="N", help="at most N sessions at a time")
    add.add_argument("--hours-per-day", type=_hours, metavar="H", help="at most H hours of audio in a UTC day")
    add.add_argument(
        "--expires",
        type=_expiry,
        metavar="WHEN",
        help="an age such as 30d, 12h or 8w, or a UTC date such as 2027-01-31",
    )
    listing = actions.add_parser("list", help="list the keys, without their secrets")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    revoke = actions.add_parser("revoke", help="take a key away; its open sessions are closed")
    revoke.add_argument("id", metavar="ID", help="as `list` shows it")


def run(args: argparse.Namespace) -> int:
    """Runs a parsed command; returns the exit status."""
    from server.keys import KeysError

    path, is_default = _path(args.file)
    try:
        if args.action == "add":
            return _add(args, path, is_default=is_default)
        if args.action == "revoke":
            return _revoke(args, path)
        return _list(args, path)
    except KeysError as error:
        print(f"starling keys: {error}", file=sys.stderr)
        return 1


def _path(given: Path | None) -> tuple[Path, bool]:
    """The keys file, and whether nobody named it."""
    named = given or os.environ.get(FILE_VARIABLE)
    if named:
        return Path(named).expanduser().absolute(), False
    return Path(os.environ.get("STARLING_STATE_DIR") or ".starling").expanduser().absolute() / "keys.json", True


def _add(args: argparse.Namespace, path: Path, *, is_default: bool) -> int:
    from server.keys import add_key

    key, text = add_key(path, args.name, sessions=args.sessions, hours_per_day=args.hours_per_day, expires=args.expires)
    # The key alone goes to standard output, so that it can be sent somewhere without being shown.
    print(f"key {key.id} is in {path}; this is the only time it is shown:", file=sys.stderr, flush=True)
    print(text, flush=True)
    if is_default:
        print(f"the server asks for keys when {FILE_VARIABLE}={path} is set", file=sys.stderr)
    return 0


def _revoke(args: argparse.Namespace, path: Path) -> int:
    from server.keys import revoke_key

    key = revoke_key(path, args.id)
    print(f"key {key.id} ({_printable(key.name)}) revoked", file=sys.stderr)
    return 0


def _list(args: argparse.Namespace, path: Path) -> int:
    from server.keys import read_keys

    keys = list(read_keys(path).values())
    if args.json:
        for key in keys:
            print(key.model_dump_json(exclude={"sha256"}))
    elif keys:
        _print_table(keys)
    else:
        print("no keys", file=sys.stderr)
    return 0


def _print_table(keys: list[Key]) -> None:
    now = datetime.now(UTC)
    head = ("ID", "NAME", "CREATED", "EXPIRES", "SESSIONS", "HOURS A DAY")
    rows = [
        (
            key.id,
            _printable(key.name),
            _date(key.created),
            "never" if key.expires is None else _date(key.expires) + ("" if key.is_valid(now) else " (expired)"),
            "any" if key.sessions is None else str(key.sessions),
            "any" if key.hours_per_day is None else f"{key.hours_per_day:g}",
        )
        for key in keys
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _date(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def _hours(text: str) -> float:
    if not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text, re.ASCII) or float(text) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of hours above 0, such as 10 or 0.5")
    return float(text)


def _expiry(text: str) -> datetime:
    now = datetime.now(UTC)
    try:
        age = re.fullmatch(r"(\d{1,5})([mhdw])", text, re.ASCII)
        if age is not None:
            return (now + timedelta(**{_UNITS[age[2]]: int(age[1])})).replace(microsecond=0)
        date = datetime.fromisoformat(text)
        date = date.replace(tzinfo=UTC) if date.tzinfo is None else date
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: write an age such as 30d, 12h or 8w, or a UTC date such as 2027-01-31"
        ) from None
    if date <= now:
        raise argparse.ArgumentTypeError(f"{text!r} has passed already")
    return date
