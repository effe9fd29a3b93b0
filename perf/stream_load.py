"""Paced live streams over real speech: what one costs, how many a machine carries, what happens beyond.

    python -m perf.stream_load --streams 8            so many at once, on a server that is started for it
    python -m perf.stream_load --ramp                 more and more of them until the limits break
    python -m perf.stream_load --streams 1 --continuous --clip two_cities
    python -m perf.stream_load --streams 4 --url ws://127.0.0.1:8000/stream

Each stream is one session: recordings with pauses of 0.8 to 2.5 s between them (`--continuous`: none), in frames of
20 ms when a microphone would have them. The streams begin within four seconds, evenly spread. A level holds when
partial lag p95 is at most 500 ms, end of speech to final p95 at most 1 s, and no session met an error. The clocks are
those of `perf.clocks`, as a client reads them. CPU time is that of the server's processes alone, this generator's not
counted, and so known only for a server that is started here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvloop

from launcher.errors import LauncherError
from launcher.progress import Reporter
from perf.accuracy import Clip
from perf.level import Level, Limits, run_level
from perf.machine import describe_machine
from perf.plots import plot_levels
from perf.ramp import Step, capacity, next_streams
from perf.stack import Stack, running_stack
from perf.track import DEFAULT_MANIFEST, load_clips, make_tracks

WARM_UP_S = 3.0


def say(text: str) -> None:
    """A line of progress; on a terminal the next one replaces it unless it ends the level."""
    end = "\r" if sys.stderr.isatty() and not text.endswith("\n") else "\n"
    print(f"{text.rstrip():<78}", end=end, file=sys.stderr, flush=True)


async def measure(
    stack: Stack, clips: Sequence[Clip], levels: Sequence[int], options: argparse.Namespace
) -> list[Level]:
    """Runs the levels given, or with none given the ramp."""
    results: list[Level] = []
    limits = Limits()

    async def one(streams: int, seconds: float) -> Level:
        tracks = make_tracks(clips, streams, seconds, continuous=options.continuous, rate=options.sample_rate)
        return await run_level(
            stack, tracks, frame_s=options.frame_ms / 1000, api_key=options.api_key, progress=_on_terminal
        )

    async def keep(streams: int) -> Level:
        level = await one(streams, options.seconds)
        results.append(level)
        reasons = level.broken(limits)
        say(f"{level.line()}  {'holds' if not reasons else 'BREAKS: ' + '; '.join(reasons)}\n")
        return level

    # The first windows of a process pay for caches and connections that later ones find in place.
    await one(1, WARM_UP_S)
    for streams in levels:
        await keep(streams)
    steps: list[Step] = []
    while not levels and (streams := next_streams(steps, options.first, options.most)) is not None:  # type: ignore[assignment]
        steps.append(Step(streams, not (await keep(streams)).broken(limits)))
    return results


def _on_terminal(text: str) -> None:
    if sys.stderr.isatty():
        say(text)


def summarize(levels: Sequence[Level], options: argparse.Namespace) -> dict[str, Any]:
    """The figures of a run, ready for JSON."""
    limits = Limits()
    steps = [Step(level.streams, not level.broken(limits)) for level in levels]
    return {
        "machine": describe_machine(),
        "speech": "continuous" if options.continuous else "with pauses",
        "seconds": options.seconds,
        "frame_ms": options.frame_ms,
        "limits": asdict(limits),
        "capacity": capacity(steps),
        "levels": [{**level.to_json(), "broken": level.broken(limits)} for level in levels],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 where something could not be started."""
    options = _parser().parse_args(argv)
    try:
        clips = load_clips(options.manifest, options.language or ["en"], options.clip)
        stack = nullcontext(Stack(options.url)) if options.url else running_stack(Reporter(sys.stderr))
        with stack as running:
            levels = uvloop.run(measure(running, clips, options.streams, options))
    except (OSError, ValueError, LauncherError) as error:
        print(f"perf.stream_load: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    summary = summarize(levels, options)
    if not options.streams:
        say(f"capacity: {summary['capacity']} streams of speech {summary['speech']}\n")
    if options.json:
        options.json.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.plot:
        plot_levels(summary, options.plot)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="perf.stream_load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", type=Path, default=DEFAULT_MANIFEST, help="table: file, language, transcript")
    parser.add_argument("--language", action="append", help="only recordings in it; may be repeated (default: en)")
    parser.add_argument("--clip", action="append", help="only recordings whose file name holds this; may be repeated")
    parser.add_argument("--url", help="a running server; without it one is started")
    parser.add_argument("--api-key")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--streams", type=int, nargs="+", default=[], metavar="N", help="levels to run, in this order")
    amount.add_argument("--ramp", action="store_true", help="look for the most streams that hold (the default)")
    parser.add_argument("--first", type=int, default=2, help="where the ramp begins (default: 2)")
    parser.add_argument("--most", type=int, default=256, help="where it ends at the latest (default: 256)")
    parser.add_argument("--seconds", type=float, default=45.0, help="length of a level (default: 45)")
    parser.add_argument("--continuous", action="store_true", help="speech without pauses")
    parser.add_argument("--frame-ms", type=float, default=20.0)
    parser.add_argument("--sample-rate", type=int, default=16000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them there (PNG or SVG)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
