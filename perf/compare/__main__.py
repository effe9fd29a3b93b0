"""Starling, moonshine-voice's own streaming and a naive loop: the same audio, the same clocks, in one run.

    python -m perf.compare [--clip two_cities] [--json FILE] [--plot FILE]

All three use the same weights. They take turns, recording by recording, so that whatever else the machine does meets
each of them; each gets its audio in frames of 20 ms in real time. CPU is that of all its processes: for Starling the
gateway, Triton and Triton's stubs. What counts are the ratios.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from launcher.errors import LauncherError
from launcher.paths import Paths
from launcher.progress import Reporter
from perf.clocks import Percentiles, Timeline
from perf.compare.workers import Outcome, moonshine_command, naive_command, read_outcome, run_worker
from perf.machine import describe_machine
from perf.plots import plot_comparison
from perf.speakers import TRAILING_SILENCE_S, Speaker, make_frames, speak_together
from perf.stack import Stack, running_stack
from perf.track import DEFAULT_MANIFEST, Track, load_clips, make_tracks

FRAME_S = 0.02
STARLING, MOONSHINE, NAIVE = "starling", "moonshine-voice", "naive loop"
COLUMNS = {
    "core_per_stream": "cores for one stream",
    "first_partial_p50": "first partial p50",
    "partial_lag_p50": "partial lag p50",
    "partial_lag_p95": "partial lag p95",
    "end_to_final_p50": "end of speech to final p50",
    "end_to_final_p95": "end of speech to final p95",
    "wer": "WER",
    "flicker": "words changed per final word",
}


async def run_starling(stack: Stack, track: Track) -> Outcome:
    """Plays a track to the whole server."""
    speaker = Speaker(track, make_frames(track, FRAME_S), FRAME_S)
    if not await speaker.connect(stack.url, None, "compare"):
        raise RuntimeError(speaker.heard.trouble)
    before = _cpu_s(stack)
    await speak_together([speaker], track.seconds + TRAILING_SILENCE_S)
    spent = _cpu_s(stack) - before
    heard = await speaker.finished()
    if heard.trouble:
        raise RuntimeError(heard.trouble)
    timeline = Timeline()
    for number, at in enumerate(heard.sent_at, start=1):
        timeline.sent(number * FRAME_S, at)
    return read_outcome(STARLING, track, heard.events(), timeline, spent)


def _cpu_s(stack: Stack) -> float:
    assert stack.gateway_usage is not None
    assert stack.triton_usage is not None
    return stack.gateway_usage().cpu_seconds + stack.triton_usage().cpu_seconds


async def measure(stack: Stack, tracks: Sequence[Track], options: argparse.Namespace) -> list[Outcome]:
    """Plays every track to every system, in turns."""
    moonshine = moonshine_command(Paths.from_environment(), Reporter(sys.stderr), options.interval, options.moonshine)
    naive = naive_command(options.interval)
    # The first session pays for what later ones find in place.
    await run_starling(stack, make_tracks(load_clips(options.manifest, ["en"], ["0880"]), 1, 1.0)[0])
    outcomes: list[Outcome] = []
    for number, track in enumerate(tracks, start=1):
        for system, run in (
            (STARLING, lambda t=track: run_starling(stack, t)),
            (MOONSHINE, lambda t=track: run_worker(MOONSHINE, moonshine, t, FRAME_S)),
            (NAIVE, lambda t=track: run_worker(NAIVE, naive, t, FRAME_S)),
        ):
            outcome = await run()  # type: ignore[no-untyped-call]
            outcomes.append(outcome)
            core, rate = outcome.cpu_s / outcome.seconds, outcome.errors.rate
            line = f"[{number}/{len(tracks)}] {system:<16} {core:.3f} core, WER {rate:.1%}"
            print(line, file=sys.stderr, flush=True)
    return outcomes


def summarize(outcomes: Sequence[Outcome], options: argparse.Namespace) -> dict[str, Any]:
    """One row for each system, and each of its figures as a multiple of Starling's."""
    rows = [_row([o for o in outcomes if o.system == system]) for system in (STARLING, MOONSHINE, NAIVE)]
    for row in rows:
        row["ratios"] = {name: row[name] / rows[0][name] for name in COLUMNS if row[name] is not None and rows[0][name]}
    return {
        "machine": describe_machine(),
        "interval_s": options.interval,
        "moonshine": options.moonshine,
        "rows": rows,
        "table": table(rows),
    }


def _row(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    def pooled(name: str) -> Percentiles:
        return Percentiles.of([value for o in outcomes for value in getattr(o.clocks, name)])

    seconds = sum(outcome.seconds for outcome in outcomes)
    errors = sum((outcome.errors for outcome in outcomes[1:]), outcomes[0].errors)
    changed = sum(outcome.flicker.changed_words for outcome in outcomes)
    words = sum(outcome.flicker.final_words for outcome in outcomes)
    lag, end = pooled("partial_lag"), pooled("end_to_final")
    return {
        "system": outcomes[0].system,
        "seconds": seconds,
        "core_per_stream": sum(outcome.cpu_s for outcome in outcomes) / seconds,
        "first_partial_p50": pooled("first_partial").p50,
        "partial_lag_p50": lag.p50,
        "partial_lag_p95": lag.p95,
        "end_to_final_p50": end.p50,
        "end_to_final_p95": end.p95,
        "wer": errors.rate,
        "flicker": changed / max(1, words),
        "texts": [outcome.text for outcome in outcomes],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table: Starling's figures as they are, the others' as multiples of them beside theirs."""
    lines = [f"| | {' | '.join(row['system'] for row in rows)} |", "| --- |" + " ---: |" * len(rows)]
    for name, title in COLUMNS.items():
        cells = [_cell(name, row) for row in rows]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(name: str, row: dict[str, Any]) -> str:
    value = row[name]
    if value is None:
        return "-"
    if name == "wer":
        return f"{value:.1%}"
    shown = f"{value * 1000:.0f} ms" if "_p" in name and not name.startswith("core") else f"{value:.3f}"
    ratio = row["ratios"].get(name)
    return shown if row["system"] == STARLING or ratio is None else f"**{ratio:.1f} x** ({shown})"


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 where something could not be had or started."""
    options = parser().parse_args(argv)
    try:
        clips = load_clips(options.manifest, ["en"], options.clip)
        tracks = [make_tracks([clip], 1, 0.0)[0] for clip in clips]
        with running_stack(Reporter(sys.stderr), ["asr"], models={"asr": ["en"]}) as stack:
            outcomes = uvloop.run(measure(stack, tracks, options))
    except (OSError, ValueError, RuntimeError, LauncherError) as error:
        print(f"perf.compare: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    summary = summarize(outcomes, options)
    print(summary["table"])
    if options.json:
        options.json.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.plot:
        plot_comparison(summary["rows"], options.plot)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="perf.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--manifest", type=Path, default=DEFAULT_MANIFEST, help="table: file, language, transcript")
    made.add_argument("--clip", action="append", help="only recordings whose file name holds this; may be repeated")
    made.add_argument(
        "--interval",
        type=float,
        default=0.32,
        help="seconds between updates of the other two (default: Starling's hop)",
    )
    made.add_argument(
        "--moonshine",
        choices=["lean", "defaults"],
        default="lean",
        help="moonshine-voice without the parts that serve nothing here, or as it comes (default: lean)",
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    made.add_argument("--plot", type=Path, metavar="FILE", help="draw them there (PNG or SVG)")
    return made


if __name__ == "__main__":
    sys.exit(main())
