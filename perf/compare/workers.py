"""The other systems as processes: audio into a pipe at the speed of speech, events out of one, CPU time beside it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.lock import file_lock
from launcher.paths import SOURCE_ROOT, Paths
from launcher.processes import descendants, usage
from launcher.progress import Reporter
from launcher.venv import create_venv, install_locked
from launcher.wheels import sha256_of
from perf.clocks import Clocks, Flicker, Timeline, read_clocks, read_flicker
from perf.speakers import TRAILING_SILENCE_S
from perf.track import Track
from perf.wer import WordErrors, word_errors
from starling_client import Event, Final, Partial

LOCK = Path(__file__).with_name("moonshine.txt")
MOONSHINE_WORKER = Path(__file__).with_name("moonshine_worker.py")
LOCK_TIMEOUT_S = 900.0
READY_TIMEOUT_S = 120.0
END_TIMEOUT_S = 120.0


@dataclass(slots=True)
class Outcome:
    """What one system made of one track.

    Attributes:
        system: its name in tables.
        cpu_s: CPU time of its processes while the track lasted.
        seconds: the track's length.
        clocks: as its user reads them.
        flicker: how restless its partials were.
        errors: against what is said.
        text: its finals, joined.
    """

    system: str
    cpu_s: float
    seconds: float
    clocks: Clocks = field(default_factory=Clocks)
    flicker: Flicker = field(default_factory=Flicker)
    errors: WordErrors = field(default_factory=WordErrors)
    text: str = ""


def moonshine_command(paths: Paths, reporter: Reporter, interval_s: float, settings: str) -> list[str]:
    """The command that runs moonshine-voice's own streaming with `lean` settings or its `defaults`.

    Its environment is made in the cache where it is missing.

    Raises:
        LauncherError: it could not be installed.
    """
    root = paths.tools / f"moonshine-voice-{sha256_of(LOCK)[:16]}"
    python = root / "bin" / "python"
    stamp = root / ".complete"
    with file_lock(paths.setup_lock, timeout_s=LOCK_TIMEOUT_S, busy="another set-up is running", on_wait=reporter.step):
        if not stamp.exists():
            reporter.step("making an environment for moonshine-voice (88 MB)")
            shutil.rmtree(root, ignore_errors=True)
            create_venv(root, Path(sys.executable))
            install_locked(python, [LOCK], "moonshine-voice", reporter)
            stamp.touch()
    return [str(python), str(MOONSHINE_WORKER), str(interval_s), settings]


def naive_command(interval_s: float) -> list[str]:
    """The command that runs the naive loop."""
    return [sys.executable, "-m", "perf.compare.naive_worker", str(interval_s)]


async def run_worker(system: str, command: Sequence[str], track: Track, frame_s: float) -> Outcome:
    """Plays a track to a system in real time.

    Raises:
        RuntimeError: the system ended too early.
    """
    environment = {**os.environ, "PYTHONPATH": f"{SOURCE_ROOT}{os.pathsep}{SOURCE_ROOT / 'client'}"}
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment, cwd=SOURCE_ROOT
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            if json.loads(await process.stdout.readline() or b"{}").get("type") != "ready":
                raise RuntimeError(f"{system} did not start: its command was {' '.join(command)}")
        listening = asyncio.create_task(_listen(process.stdout, track.language))
        before = _cpu_s(process.pid)
        timeline = await _play(process.stdin, track, frame_s)
        spent = _cpu_s(process.pid) - before
        process.stdin.close()
        async with asyncio.timeout(END_TIMEOUT_S):
            events = await listening
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return read_outcome(system, track, events, timeline, spent)


async def _play(pipe: asyncio.StreamWriter, track: Track, frame_s: float) -> Timeline:
    timeline = Timeline()
    frames = [frame.tobytes() for frame in track.frames(frame_s)]
    frames += [bytes(len(frames[0]))] * round(TRAILING_SILENCE_S / frame_s)
    begin = time.monotonic()
    for number, frame in enumerate(frames, start=1):
        await asyncio.sleep(max(0.0, begin + number * frame_s - time.monotonic()))
        # Not drained: a microphone does not wait for a system that falls behind, its audio piles up.
        pipe.write(frame)
        timeline.sent(number * frame_s, time.monotonic())
    return timeline


async def _listen(lines: asyncio.StreamReader, language: str) -> list[tuple[float, Event]]:
    events: list[tuple[float, Event]] = []
    while line := await lines.readline():
        events.append((time.monotonic(), _event(json.loads(line), language)))
    return events


def _event(told: dict[str, Any], language: str) -> Event:
    if told["type"] == "partial":
        return Partial(told["text"], told["seq"], told["start"], told["end"], 0, language)
    return Final(told["text"], told["seq"], told["start"], told["end"], 1.0, True, language)


def read_outcome(
    system: str, track: Track, events: Sequence[tuple[float, Event]], timeline: Timeline, cpu_s: float
) -> Outcome:
    """All figures of one system and track."""
    text = " ".join(event.text for _, event in events if isinstance(event, Final))
    return Outcome(
        system,
        cpu_s,
        track.seconds + TRAILING_SILENCE_S,
        read_clocks(events, timeline, track.spans),
        read_flicker(event for _, event in events),
        word_errors(track.transcript, text, track.language),
        text,
    )


def _cpu_s(pid: int) -> float:
    return usage([pid, *(process.pid for process in descendants(pid))]).cpu_seconds
