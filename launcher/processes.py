"""What Linux tells about a tree of processes: who is in it and what it uses."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """One process at one moment.

    Attributes:
        pid: its number.
        parent: its parent's number.
        state: the kernel's letter: R running, S sleeping, T stopped, Z dead and not yet collected.
        cpu_seconds: user and system time so far.
        command: its arguments.
    """

    pid: int
    parent: int
    state: str
    cpu_seconds: float
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """What processes use together.

    Attributes:
        processes: how many there are.
        cpu_seconds: user and system time that the living ones spent so far.
        resident_bytes: resident memory, pages that they share counted once (PSS).
    """

    processes: int
    cpu_seconds: float
    resident_bytes: int


def read_process(pid: int) -> ProcessInfo | None:
    """One process, or None when there is none of that number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None
    # The name in brackets may hold spaces and brackets itself.
    fields = stat.rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    arguments = tuple(part.decode(errors="replace") for part in command.split(b"\0") if part)
    return ProcessInfo(pid, int(fields[1]), fields[0], ticks / CLOCK_TICKS, arguments)


def all_processes() -> Iterator[ProcessInfo]:
    """Every process that can be seen."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (process := read_process(int(name))) is not None:
            yield process


def descendants(pid: int) -> list[ProcessInfo]:
    """The processes under `pid`, itself not among them, parents before children."""
    children: dict[int, list[ProcessInfo]] = defaultdict(list)
    for process in all_processes():
        children[process.parent].append(process)
    found: list[ProcessInfo] = []
    waiting = [pid]
    while waiting:
        below = children.pop(waiting.pop(), [])
        found += below
        waiting += [process.pid for process in below]
    return found


def usage(pids: list[int]) -> Usage:
    """What these processes use now; one that is gone counts as nothing."""
    processes = [process for pid in pids if (process := read_process(pid)) is not None and process.state != "Z"]
    resident = sum(_resident_bytes(process.pid) for process in processes)
    return Usage(len(processes), sum(process.cpu_seconds for process in processes), resident)


def _resident_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
