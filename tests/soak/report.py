"""Measured results for `docs/reliability.md`: each soak replaces its own line of the table there."""

from __future__ import annotations

import fcntl
import os
import platform
import sys
import time

from launcher.paths import SOURCE_ROOT

REPORT = SOURCE_ROOT / "docs" / "reliability.md"
HEADER = "| soak | run | result | when and where |\n| --- | --- | --- | --- |\n"


def record(name: str, run: str, result: str) -> None:
    """Writes what was measured into the table under the header, in place of the same soak's last line."""
    where = f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} CPUs, {platform.machine()}, load {os.getloadavg()[2]:.1f}"
    line = f"| {name} | {run} | {result} | {where} |\n"
    tell(name, f"{run}: {result}")
    with REPORT.open() as report:
        fcntl.flock(report, fcntl.LOCK_EX)  # others may end at the same moment
        _replace(name, line)


def tell(name: str, text: str) -> None:
    """How a soak gets on, for whoever waits for it; seen where pytest captures nothing (`-s`), with workers too."""
    print(f"{time.strftime('%H:%M:%S')} {name}: {text}", file=sys.stderr, flush=True)


def _replace(name: str, line: str) -> None:
    before, header, table = REPORT.read_text().partition(HEADER)
    if not header:
        raise AssertionError(f"{REPORT} has no table with the header\n{HEADER}")
    rows, after = [], table
    while after.startswith("|"):
        row, _, after = after.partition("\n")
        rows.append(row + "\n")
    kept = [row for row in rows if not row.startswith(f"| {name} |")]
    REPORT.write_text(before + header + "".join([*kept, line]) + after)


def setting(name: str, default: int) -> int:
    """A number from the environment, such as STARLING_SOAK_FAULTS."""
    return int(os.environ.get(f"STARLING_SOAK_{name}", default))
