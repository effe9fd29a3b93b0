"""The gateway alone: how many live streams one core of it carries when the speech models cost nothing.

    python -m perf.gateway                          20 ms and 100 ms frames, more and more streams
    python -m perf.gateway --streams 250 --frame-ms 20

One gateway process on one core; on the other cores a real Triton with a model that answers at once, and the paced
clients. Real speech with pauses, voice activity on, partials at the usual hop, finals stored in SQLite as by default.
A level holds while the event loop is at most 50 ms late at p99 (the gateway's own histogram: the figure is the upper
edge of its bucket), no session met an error, and partials come within their limit. Beside it stands what the core's use
says: CPU seconds for a second of one stream, which holds on a busy machine too. Of a level that breaks it is said what
the limit was: the gateway, the clients, or others on the gateway's core.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import uvloop

from launcher.errors import LauncherError
from launcher.paths import SOURCE_ROOT, Paths
from launcher.progress import Reporter
from launcher.repository import ModelPlan, assemble_stand_in
from launcher.setup import set_up
from launcher.triton import TritonProcess
from perf.clocks import histogram_between, percentile
from perf.machine import describe_machine
from perf.plots import plot_gateway
from perf.ramp import Step, capacity, next_streams
from perf.speakers import Speaker, make_frames, speak_together
from perf.stack import GatewayProcess, Stack, on_cores, triton_options
from perf.stream_load import say
from perf.track import DEFAULT_MANIFEST, Track, load_clips, make_tracks

INSTANT_MODEL = Path(__file__).with_name("instant_model.py")
LOOP_DELAY = "starling_event_loop_delay_seconds"
PARTIAL_LAG = "starling_partial_lag_seconds"
AUDIO = "starling_audio_seconds_total"
ALL_HEARD = 0.97
"""Share of the audio sent that the gateway must have taken, for its CPU time to say what a stream costs."""
LOOP_DELAY_LIMIT_S = 0.05
LATE_LIMIT_S = 0.05
"""Frames that come later than this at p99 say that the clients are the limit."""
FOREIGN_LIMIT = 0.05
"""Share of the gateway's core that others may have; a loop that waits for them is late through no fault of its own."""
PARTIAL_LAG_LIMIT_S = 0.5
DISTINCT_TRACKS = 16
"""Streams share so many tracks, each beginning at another point of its own."""


@dataclass(slots=True)
class GatewayLevel:
    """The figures of one level.

    Attributes:
        streams: how many spoke.
        frame_ms: length of their frames.
        core: CPU time of the gateway a second.
        memory_bytes: resident memory that a stream added.
        loop_delay: of the gateway's histogram.
        partial_lag: of the gateway's histogram; clients see only windows that changed the text.
        windows: requests that Triton answered a second.
        late_p99: seconds by which the clients' frames were late.
        triton_core: CPU time of Triton a second.
        client_core: CPU time of this process a second.
        heard: share of the audio sent that the gateway took.
        foreign: share of the gateway's core that went to others, or was taken from this machine by its host.
        troubles: what went wrong, and how often.
    """

    streams: int
    frame_ms: float
    core: float
    memory_bytes: float
    loop_delay: dict[str, float | int | None]
    partial_lag: dict[str, float | int | None]
    windows: float
    late_p99: float
    triton_core: float
    client_core: float
    heard: float = 1.0
    foreign: float = 0.0
    troubles: dict[str, int] = field(default_factory=dict)

    @property
    def by_cpu(self) -> int | None:
        """Streams that one core would carry if all of it were used; None where the gateway fell behind."""
        return round(self.streams / self.core) if self.core and self.heard >= ALL_HEARD else None

    def broken(self) -> list[str]:
        """Why this level does not hold; empty if it does."""
        reasons = [f"{count} x {trouble}" for trouble, count in self.troubles.items()]
        delay = self.loop_delay["p99_at_most"]
        if delay is None or delay > LOOP_DELAY_LIMIT_S:
            reasons.append(f"event loop p99 over {LOOP_DELAY_LIMIT_S * 1000:.0f} ms")
        lag = self.partial_lag["p95_at_most"]
        if self.heard < ALL_HEARD:
            reasons.append(f"only {self.heard:.0%} of the audio was taken")
        if lag is None or lag > PARTIAL_LAG_LIMIT_S:
            reasons.append(f"partial lag p95 over {PARTIAL_LAG_LIMIT_S * 1000:.0f} ms")
        return reasons

    def limit(self) -> str:
        """What kept this level from holding, as far as can be seen; empty if it does."""
        if not self.broken():
            return ""
        if self.late_p99 > LATE_LIMIT_S:
            return "clients"
        return "others on the core" if self.foreign > FOREIGN_LIMIT else "gateway"

    def to_json(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "streams": self.streams,
            "frame_ms": self.frame_ms,
            "core": self.core,
            "cpu_ms_per_stream_s": self.core / self.streams * 1000,
            "streams_per_core_by_cpu": self.by_cpu,
            "heard": self.heard,
            "foreign_core": self.foreign,
            "memory_kib_per_stream": self.memory_bytes / 1024,
            "loop_delay_p99_at_most_s": self.loop_delay["p99_at_most"],
            "loop_delay": self.loop_delay,
            "partial_lag": self.partial_lag,
            "windows_per_second": self.windows,
            "client_late_p99_s": self.late_p99,
            "triton_core": self.triton_core,
            "client_core": self.client_core,
            "troubles": self.troubles,
            "broken": self.broken(),
            "limit": self.limit(),
        }

    def line(self) -> str:
        """The level in one line of text."""
        delay = self.loop_delay["p99_at_most"]
        lag = self.partial_lag["p95_at_most"]
        return (
            f"{self.streams:4d} streams of {self.frame_ms:3.0f} ms frames: gateway {self.core:.2f} core "
            f"({self.core / self.streams * 1000:.2f} ms/s a stream, {self.by_cpu or '?'} a core), "
            f"loop p99 <= {'?' if delay is None else f'{delay * 1000:.0f}'} ms, "
            f"lag p95 <= {'?' if lag is None else f'{lag * 1000:.0f}'} ms, "
            f"{self.memory_bytes / 1024:.0f} KiB a stream, {self.windows:.0f} windows/s, "
            f"Triton {self.triton_core:.2f}, clients {self.client_core:.2f} core (late {self.late_p99 * 1000:.0f} ms), "
            f"others on the gateway's core {self.foreign:.2f}"
        )


@contextmanager
def gateway_alone(reporter: Reporter, core: int, **settings: object) -> Iterator[Stack]:
    """A gateway on one core in front of a Triton on the others whose model answers at once."""
    others = frozenset(os.sched_getaffinity(0) - {core}) or None
    with tempfile.TemporaryDirectory(prefix="starling-perf-") as name, ExitStack() as stack:
        folder = Path(name)
        paths = replace(Paths.from_environment(), state=folder / "triton")
        installation = set_up(paths, reporter)
        repository = assemble_stand_in(
            SOURCE_ROOT / "triton_models", folder / "repository", ModelPlan("asr", folder), INSTANT_MODEL
        )
        triton = TritonProcess(installation.triton, repository, paths.state, paths.source, triton_options(stack))
        stack.callback(triton.stop)
        with on_cores(others):
            triton.start_ready()
        settings = {"models": {"asr": ["en"]}, "max_sessions": 4000, "max_in_flight": 32, **settings}
        gateway = GatewayProcess(folder / "gateway", [triton.options.grpc_url], settings, frozenset({core}))
        stack.callback(gateway.stop)
        gateway.start()
        stack.enter_context(on_cores(others))
        yield Stack(gateway.url, triton.options.http_url, gateway.usage, triton.usage)


async def run_gateway_level(
    stack: Stack,
    tracks: Sequence[Track],
    streams: int,
    *,
    frame_s: float,
    seconds: float,
    core: int,
    empty_bytes: int = 0,
) -> GatewayLevel:
    """Has so many streams speak for so long to the gateway on `core`; `empty_bytes` is its memory without any."""
    assert stack.gateway_usage is not None
    assert stack.triton_usage is not None
    speakers = _speakers(tracks, streams, frame_s, seconds)
    for number, speaker in enumerate(speakers):
        await speaker.connect(stack.url, None, f"gateway {number}")
    begun = [speaker for speaker in speakers if not speaker.heard.trouble]
    before, metrics, counts = stack.gateway_usage(), stack.metrics(), stack.model_counts()
    triton, client, busy, began = stack.triton_usage(), time.process_time(), core_seconds(core), time.monotonic()
    await speak_together(begun, seconds)
    passed = time.monotonic() - began
    client_core, busy = (time.process_time() - client) / passed, core_seconds(core) - busy
    after, windows = stack.gateway_usage(), stack.model_counts()
    triton_core = (stack.triton_usage().cpu_seconds - triton.cpu_seconds) / passed
    last = stack.metrics()
    heard = await asyncio.gather(*(speaker.finished() for speaker in begun))
    used = after.cpu_seconds - before.cpu_seconds
    level = GatewayLevel(
        streams=streams,
        frame_ms=frame_s * 1000,
        core=used / passed,
        memory_bytes=max(0, after.resident_bytes - empty_bytes) / streams,
        loop_delay=histogram_between(metrics, last, LOOP_DELAY),
        partial_lag=histogram_between(metrics, last, PARTIAL_LAG),
        windows=windows["asr"].since(counts["asr"]).inferences / passed,
        late_p99=percentile([late for one in heard for late in one.late_s], 99) or 0.0,
        triton_core=triton_core,
        client_core=client_core,
        heard=(read_counter(last, AUDIO) - read_counter(metrics, AUDIO)) / max(1e-9, seconds * len(begun)),
        foreign=max(0.0, busy - used) / passed,
    )
    for one in [*heard, *(speaker.heard for speaker in speakers if speaker not in begun)]:
        if one.trouble:
            level.troubles[one.trouble] = level.troubles.get(one.trouble, 0) + 1
    return level


def core_seconds(core: int, statistics: str | None = None) -> float:
    """Seconds for which a core has not been free since the machine's start; `statistics` is what /proc/stat says."""
    text = Path("/proc/stat").read_text(encoding="ascii") if statistics is None else statistics
    (line,) = [line for line in text.splitlines() if line.startswith(f"cpu{core} ")]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, line.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def read_counter(metrics: str, name: str) -> float:
    """The value of a counter without labels; 0 where there is none."""
    lines = [line for line in metrics.splitlines() if line.startswith(f"{name} ")]
    return float(lines[-1].rpartition(" ")[2]) if lines else 0.0


def _speakers(tracks: Sequence[Track], streams: int, frame_s: float, seconds: float) -> list[Speaker]:
    """Streams that share tracks begin at different points of them, so that they do not pause together."""
    frames = [make_frames(track, frame_s, trailing_s=0.0) for track in tracks]
    wanted = round(seconds / frame_s)
    speakers = []
    for number in range(streams):
        track, whole = tracks[number % len(tracks)], frames[number % len(tracks)]
        turn = (number // len(tracks)) * len(whole) * len(tracks) // streams
        speakers.append(Speaker(track, (whole[turn:] + whole[:turn])[:wanted], frame_s))
    return speakers


async def measure(stack: Stack, options: argparse.Namespace) -> list[GatewayLevel]:
    """Runs the levels asked for, or for each length of frame the ramp."""
    tracks = make_tracks(load_clips(options.manifest, ["en"]), DISTINCT_TRACKS, options.seconds)
    levels: list[GatewayLevel] = []

    async def one(streams: int, frame_ms: float) -> GatewayLevel:
        level = await run_gateway_level(
            stack,
            tracks,
            streams,
            frame_s=frame_ms / 1000,
            seconds=options.seconds,
            core=options.core,
            empty_bytes=empty,
        )
        levels.append(level)
        reasons = level.broken()
        verdict = f"BREAKS ({level.limit()}): {'; '.join(reasons)}" if reasons else "holds"
        say(f"{level.line()}  {verdict}\n")
        return level

    await run_gateway_level(stack, tracks, 10, frame_s=0.02, seconds=3.0, core=options.core)
    assert stack.gateway_usage is not None
    empty = stack.gateway_usage().resident_bytes
    for frame_ms in options.frame_ms:
        for streams in options.streams:
            await one(streams, frame_ms)
        steps: list[Step] = []
        while not options.streams and (n := next_streams(steps, options.first, options.most)) is not None:
            steps.append(Step(n, not (await one(n, frame_ms)).broken()))
    return levels


def summarize(levels: Sequence[GatewayLevel], frame_lengths: Sequence[float]) -> dict[str, Any]:
    """The figures of a run, ready for JSON."""
    held = {
        f"{frame_ms:g}": capacity([Step(p.streams, not p.broken()) for p in levels if p.frame_ms == frame_ms])
        for frame_ms in frame_lengths
    }
    return {"machine": describe_machine(), "capacity": held, "levels": [level.to_json() for level in levels]}


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 where something could not be started."""
    options = _parser().parse_args(argv)
    reporter = Reporter(sys.stderr, quiet=True)
    try:
        with gateway_alone(reporter, options.core) as stack:
            say(f"gateway on core {options.core}: {stack.url}\n")
            levels = uvloop.run(measure(stack, options))
    except (OSError, ValueError, LauncherError) as error:
        print(f"perf.gateway: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    summary = summarize(levels, options.frame_ms)
    if options.json:
        options.json.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    if options.plot:
        plot_gateway(summary["levels"], options.plot)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="perf.gateway", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", type=Path, default=DEFAULT_MANIFEST, help="table: file, language, transcript")
    parser.add_argument("--streams", type=int, nargs="+", default=[], metavar="N", help="levels (default: a ramp)")
    parser.add_argument("--frame-ms", type=float, nargs="+", default=[20.0, 100.0], metavar="MS")
    parser.add_argument("--first", type=int, default=100, help="where the ramp begins (default: 100)")
    parser.add_argument("--most", type=int, default=2000, help="where it ends at the latest (default: 2000)")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a level (default: 20)")
    parser.add_argument("--core", type=int, default=0, help="the gateway's core (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them there (PNG or SVG)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
