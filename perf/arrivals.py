"""Far beyond the limit: streams arrive one after the other and stay, until the server takes no more.

    python -m perf.arrivals --every 1 --seconds 90       on a server that is started for it
    python -m perf.arrivals --url ws://127.0.0.1:8000/stream

Each stream speaks without pauses until the end of the run. What should be seen: partials get rarer, finals stay under
2 s, nobody's session meets an error, and who comes too late gets 503 before the upgrade. The figures are told by how
many streams were in when the partial or the final came. At the end of the run all streams end at once, as no real ones
do: what comes after that is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from pathlib import Path

import uvloop

from launcher.errors import LauncherError
from launcher.progress import Reporter
from perf.accuracy import Clip
from perf.clocks import Clocks, Percentiles, read_clocks
from perf.machine import describe_machine
from perf.speakers import Heard, Speaker, make_all_frames
from perf.stack import Stack, running_stack
from perf.track import DEFAULT_MANIFEST, load_clips, make_tracks
from starling_client import Event, Final, Partial

FRAME_S = 0.02
BAND = 8
"""Figures are put together for so many numbers of streams."""


@dataclass(slots=True)
class Arrivals:
    """What came of a run.

    Attributes:
        begun_at: when each stream that was taken began to speak, in seconds of the monotonic clock.
        refused: how many others got 503.
        heard: what those that were taken were told; with a trouble, also those that could not be for another reason.
    """

    begun_at: list[float] = field(default_factory=list)
    refused: int = 0
    heard: list[Heard] = field(default_factory=list)

    @property
    def troubles(self) -> list[str]:
        """What went wrong, other than a 503."""
        return [one.trouble for one in self.heard if one.trouble]

    def bands(self) -> dict[int, Clocks]:
        """By how many streams were in, rounded down to bands: the clocks, but for first partials."""
        found: dict[int, Clocks] = {}
        for one in self.heard:
            timeline = one.timeline()
            last: dict[int, tuple[float, Event]] = {}
            for at, event in one.events():
                assert isinstance(event, Partial | Final)
                if at > one.sent_at[-1]:
                    break
                before = [last[event.seq]] if event.seq in last else []
                last[event.seq] = (at, event)
                clocks = read_clocks([*before, (at, event)], timeline, one.track.spans)
                known = found.setdefault(self._streams_at(at) // BAND * BAND, Clocks())
                known.partial_lag += clocks.partial_lag
                known.end_to_final += clocks.end_to_final
        return dict(sorted(found.items()))

    def _streams_at(self, at: float) -> int:
        return sum(begun <= at for begun in self.begun_at)


async def run(stack: Stack, clips: Sequence[Clip], every_s: float, seconds: float, most: int) -> Arrivals:
    """A new stream every `every_s` seconds for `seconds`, `most` at most; all that were taken speak until the end."""
    loop, arrivals = asyncio.get_running_loop(), Arrivals()
    tracks = make_tracks(clips, most, seconds, continuous=True)
    made = zip(tracks, make_all_frames(tracks, FRAME_S), strict=True)
    begin = loop.time()
    speakers = []
    for number, (track, frames) in enumerate(made):
        await asyncio.sleep(max(0.0, begin + number * every_s - loop.time()))
        left = begin + seconds - loop.time()
        if left <= every_s:
            break
        speaker = Speaker(track, frames[: round(left / FRAME_S)], FRAME_S)
        if await speaker.connect(stack.url, None, f"arrivals {number}"):
            speaker.start_at(loop.time())
            arrivals.begun_at.append(time.monotonic())
            speakers.append(speaker)
        elif speaker.heard.refused == HTTPStatus.SERVICE_UNAVAILABLE:
            arrivals.refused += 1
        else:
            arrivals.heard.append(speaker.heard)
    arrivals.heard += await asyncio.gather(*(speaker.finished() for speaker in speakers))
    return arrivals


def report(arrivals: Arrivals) -> str:
    """The run as a table of text."""
    lines = ["streams in   partial lag p50/p95   end to final p50/p95/slowest   readings"]
    for band, clocks in arrivals.bands().items():
        lag, end = Percentiles.of(clocks.partial_lag), Percentiles.of(clocks.end_to_final)
        slowest = max(clocks.end_to_final, default=None)
        lines.append(
            f"{band:4d} to {band + BAND - 1:<4d} {_ms(lag.p50):>8} /{_ms(lag.p95):>8}  {_ms(end.p50):>9} /"
            f"{_ms(end.p95):>8} /{_ms(slowest):>8}   {lag.count} + {end.count}"
        )
    lines.append(f"{len(arrivals.begun_at)} streams were taken, {arrivals.refused} refused with 503")
    lines.append(f"other errors: {'; '.join(arrivals.troubles) or 'none'}")
    return "\n".join(lines)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 where something could not be started or a session that was taken met an error."""
    parser = argparse.ArgumentParser(
        prog="perf.arrivals", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", type=Path, default=DEFAULT_MANIFEST, help="table: file, language, transcript")
    parser.add_argument("--url", help="a running server; without it one is started")
    parser.add_argument("--every", type=float, default=1.0, help="seconds from one arrival to the next (default: 1)")
    parser.add_argument("--seconds", type=float, default=90.0, help="length of the run (default: 90)")
    parser.add_argument("--most", type=int, default=200, help="streams at most (default: 200)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args(argv)
    try:
        clips = load_clips(options.manifest, ["en"])
        with nullcontext(Stack(options.url)) if options.url else running_stack(Reporter(sys.stderr)) as stack:
            arrivals = uvloop.run(run(stack, clips, options.every, options.seconds, options.most))
    except (OSError, ValueError, LauncherError) as error:
        print(f"perf.arrivals: {error}", file=sys.stderr)
        return 1
    print(report(arrivals))
    if options.json:
        figures = {
            "machine": describe_machine(),
            "taken": len(arrivals.begun_at),
            "refused_503": arrivals.refused,
            "troubles": arrivals.troubles,
            "bands": {
                band: {
                    "partial_lag_s": asdict(Percentiles.of(clocks.partial_lag)),
                    "end_to_final_s": asdict(Percentiles.of(clocks.end_to_final)),
                    "slowest_final_s": max(clocks.end_to_final, default=None),
                }
                for band, clocks in arrivals.bands().items()
            },
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 1 if arrivals.troubles else 0


if __name__ == "__main__":
    sys.exit(main())
