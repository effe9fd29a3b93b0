"""Accuracy and speed of a running server over real recordings, sent at the speed of speech.

    python -m perf.accuracy --manifest tests/data/audio/transcripts.tsv --url ws://127.0.0.1:8000/stream

Each clip goes in frames of 20 ms when a microphone would have them, followed by silence until the endpoint. Printed are
word error rate by language, the clocks (see `perf.clocks`), the flicker, and every case in which a partial took back a
word that it had called stable. With `--json FILE` all of it, each clip included, is written there.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import numpy.typing as npt

import starling_client
from perf.clocks import Clocks, Flicker, Timeline, histogram_between, read_clocks, read_flicker, voiced_spans
from perf.wer import WordErrors, total, word_errors
from starling_cli.audio_files import AudioFile
from starling_cli.pacing import in_real_time
from starling_client import Final, Reconnecting

FRAME_S = 0.02
SILENCE_S = 1.5
PATIENT = starling_client.ResumePolicy(connect_timeout_s=300.0)
"""A server that is full for a while makes the run longer and does not end it."""
SERVER_CLOCKS = {
    "first partial": "starling_first_partial_seconds",
    "partial lag": "starling_partial_lag_seconds",
    "end of speech to final": "starling_speech_end_to_final_seconds",
    "chunk to response": "starling_chunk_to_response_seconds",
}


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording and what is said in it."""

    path: Path
    language: str
    transcript: str


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one clip."""

    clip: Clip
    hypothesis: str
    errors: WordErrors
    clocks: Clocks
    flicker: Flicker
    seconds: float
    reconnects: int


def read_manifest(path: Path) -> list[Clip]:
    """Return the clips of a table with the columns file (relative to it), language and transcript."""
    with path.open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table, delimiter="\t"))
    missing = {"file", "language", "transcript"} - set(rows[0] if rows else {})
    if missing:
        raise ValueError(
            f"{path} lacks the columns {', '.join(sorted(missing))}: it should be tab-separated, with a head"
        )
    return [Clip(path.parent / row["file"], row["language"], row["transcript"]) for row in rows]


async def transcribe(clip: Clip, url: str, api_key: str | None) -> Result:
    """Send one clip in real time and read all clocks."""
    file = AudioFile(clip.path)
    frames = list(file.pieces(FRAME_S))
    file.close()
    samples = np.concatenate(frames)
    timeline = Timeline()
    session = starling_client.connect(
        url,
        language=clip.language,
        sample_rate=file.rate,
        api_key=api_key,
        session_label=clip.path.name,
        policy=PATIENT,
    )
    async with session:
        stream = session.stream(_paced(frames, file.rate, timeline))
        events = [(time.monotonic(), event) async for event in stream]
    told = [event for _, event in events]
    hypothesis = " ".join(event.text for event in told if isinstance(event, Final))
    return Result(
        clip=clip,
        hypothesis=hypothesis,
        errors=word_errors(clip.transcript, hypothesis, clip.language),
        clocks=read_clocks(events, timeline, voiced_spans(samples, file.rate)),
        flicker=read_flicker(told),
        seconds=len(samples) / file.rate,
        reconnects=sum(isinstance(event, Reconnecting) for event in told),
    )


async def _paced(frames: Iterable[npt.NDArray[np.int16]], rate: int, timeline: Timeline) -> AsyncIterator[bytes]:
    size = round(rate * FRAME_S)
    silence = np.zeros(size, np.int16)
    sent = 0
    padded = [np.pad(frame, (0, size - len(frame))) for frame in frames]
    async for frame in in_real_time([*padded, *[silence] * round(SILENCE_S / FRAME_S)], FRAME_S):
        sent += len(frame)
        timeline.sent(sent / rate, time.monotonic())
        yield frame.tobytes()


async def measure(clips: Sequence[Clip], url: str, parallel: int, api_key: str | None) -> list[Result]:
    """Transcribe all clips, `parallel` at once; say on stderr how far it is."""
    slots = asyncio.Semaphore(parallel)
    finished = 0

    async def one(clip: Clip) -> Result:
        nonlocal finished
        async with slots:
            result = await transcribe(clip, url, api_key)
        finished += 1
        print(f"[{finished}/{len(clips)}] {result.errors.rate:6.1%}  {clip.path.name}", file=sys.stderr)
        return result

    return await asyncio.gather(*(one(clip) for clip in clips))


def summarize(results: Sequence[Result]) -> dict[str, Any]:
    """Return the figures of a run, ready for JSON."""
    clocks, flicker = Clocks(), Flicker()
    for result in results:
        clocks.extend(result.clocks)
        flicker.extend(result.flicker)
    by_language = {
        language: total(result.errors for result in results if result.clip.language == language)
        for language in sorted({result.clip.language for result in results})
    }
    return {
        "clips": len(results),
        "audio_seconds": round(sum(result.seconds for result in results), 2),
        "wer": {language: {**asdict(errors), "rate": errors.rate} for language, errors in by_language.items()},
        "clocks_s": clocks.summary(),
        "flicker": {"rate": flicker.rate, "changed_words": flicker.changed_words, "final_words": flicker.final_words},
        "stable_violations": flicker.stable_violations,
        "reconnects": sum(result.reconnects for result in results),
        "results": [
            {
                "file": result.clip.path.name,
                "language": result.clip.language,
                "wer": result.errors.rate,
                "reference": result.clip.transcript,
                "hypothesis": result.hypothesis,
            }
            for result in results
        ],
    }


def render(summary: dict[str, Any]) -> str:
    """Return the figures as text."""
    lines = [f"{summary['clips']} clips, {summary['audio_seconds']:.0f} s of speech", "", "word error rate"]
    for language, counts in summary["wer"].items():
        kinds = f"{counts['substitutions']} substituted, {counts['deletions']} deleted, {counts['insertions']} inserted"
        lines.append(f"  {language:<4}{counts['rate']:6.1%}   {counts['words']} words: {kinds}")
    lines += ["", f"{'clock (seen by the client)':<28}{'p50':>9}{'p95':>9}{'p99':>9}{'readings':>10}"]
    for name in ("first_partial", "partial_lag", "end_to_final"):
        figures = summary["clocks_s"][name]
        cells = "".join(f"{_ms(figures[rank]):>9}" for rank in ("p50", "p95", "p99"))
        lines.append(f"  {name.replace('_', ' '):<26}{cells}{figures['count']:>10}")
    lines.append(f"  segments cut in the middle of speech, without an end: {summary['clocks_s']['cut_segments']}")
    if summary.get("server_clocks_s"):
        lines += ["", f"{'clock (server, at most)':<28}{'p50':>9}{'p95':>9}{'p99':>9}{'readings':>10}"]
        for name, figures in summary["server_clocks_s"].items():
            cells = "".join(f"{_ms(figures[f'p{rank}_at_most']):>9}" for rank in (50, 95, 99))
            lines.append(f"  {name:<26}{cells}{figures['count']:>10}")
    flicker = summary["flicker"]
    lines += ["", f"flicker {flicker['rate']:.3f} words changed per final word ({flicker['changed_words']} words)"]
    lines.append(f"stable words taken back: {len(summary['stable_violations'])}")
    lines += [f"  {violation}" for violation in summary["stable_violations"]]
    return "\n".join(lines)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.0f} ms"


def read_metrics(url: str) -> str | None:
    """Return the text of `/metrics` beside a `/stream` address, None where there is none."""
    parts = urlsplit(url)
    scheme = "https" if parts.scheme == "wss" else "http"
    try:
        with urllib.request.urlopen(urlunsplit((scheme, parts.netloc, "/metrics", "", "")), timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; return 1 if a promise of stable words was broken."""
    parser = argparse.ArgumentParser(prog="perf.accuracy", description=__doc__.split("\n")[0])
    parser.add_argument("--manifest", type=Path, required=True, help="tab-separated table: file, language, transcript")
    parser.add_argument("--url", default="ws://127.0.0.1:8000/stream")
    parser.add_argument("--api-key")
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="clips at once (default: 1)")
    parser.add_argument("--language", action="append", help="only clips in this language; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    args = parser.parse_args(argv)
    try:
        clips = [clip for clip in read_manifest(args.manifest) if not args.language or clip.language in args.language]
        before = read_metrics(args.url)
        results = asyncio.run(measure(clips, args.url, args.parallel, args.api_key))
    except (OSError, ValueError, starling_client.StarlingError) as error:
        print(f"perf.accuracy: {error}", file=sys.stderr)
        return 1
    summary = summarize(results)
    after = read_metrics(args.url)
    if before is not None and after is not None:
        clocks = {name: histogram_between(before, after, metric) for name, metric in SERVER_CLOCKS.items()}
        summary["server_clocks_s"] = clocks
    print(render(summary))
    if args.json is not None:
        args.json.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 1 if summary["stable_violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
