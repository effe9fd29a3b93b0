"""`starling doctor`: what is installed, reachable and ready, and what to do about what is not."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.doctor import Check

GREEN, RED, YELLOW, PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[33m", "\x1b[0m"


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "doctor",
        help="look at what is installed, reachable and ready",
        description="Looks at what is installed, reachable and ready here, and says what to do about what is not.",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the findings; return 1 if something that the server needs is not as it should be."""
    from launcher.doctor import run_checks

    checks = run_checks()
    if args.json:
        print(json.dumps([asdict(check) for check in checks], indent=2, ensure_ascii=False))
    else:
        print(render(checks, color=sys.stdout.isatty()))
    return 0 if all(check.ok or check.optional for check in checks) else 1


def render(checks: Sequence[Check], *, color: bool) -> str:
    """Return the findings as text, one a line, each trouble with its remedy below."""
    lines = []
    room = max((len(check.name) for check in checks), default=0)
    for check in checks:
        sign, shade = ("ok", GREEN) if check.ok else ("--", YELLOW) if check.optional else ("!!", RED)
        mark = f"{shade}{sign}{PLAIN}" if color else sign
        lines.append(f"{mark}  {check.name.ljust(room)}  {check.detail}".rstrip())
        if not check.ok and check.remedy:
            lines.append(f"    {' ' * room}  -> {check.remedy}")
    needed = [check for check in checks if not check.ok and not check.optional]
    lines.append("")
    lines.append(f"{len(needed)} things to mend" if needed else "all that the server needs is there")
    return "\n".join(lines)
