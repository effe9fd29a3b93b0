"""One level of load: so many streams at once for so long, and everything that was measured of them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from launcher.processes import Usage
from perf.accuracy import SERVER_CLOCKS
from perf.clocks import Clocks, Flicker, Percentiles, histogram_between, percentile
from perf.speakers import TRAILING_SILENCE_S, Heard, Speaker, make_all_frames, speak_together
from perf.stack import ModelCounts, Stack
from perf.track import Track
from perf.wer import WordErrors

IDLE_S = 1.0
"""How long the server is watched with the sessions open and nothing said."""
SPREAD_S = 4.0
"""The streams of a level begin within this: if all of them ended at once, their last finals would be a burst that no
other moment has."""
LATE_LIMIT_S = 0.1
"""A generator whose frames are later than this at p99 measures itself."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a level must hold, in seconds."""

    partial_lag_p95: float = 0.5
    end_to_final_p95: float = 1.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What a group of processes used while the streams spoke.

    Attributes:
        cpu_s: CPU time.
        idle_cores: CPU time a second before anybody spoke.
        resident_bytes: at the end of the tracks, pages that processes share counted once.
        processes: at the end of the tracks.
    """

    cpu_s: float
    idle_cores: float
    resident_bytes: int
    processes: int


@dataclass(slots=True)
class Level:
    """The figures of one level. Seconds, unless a name says otherwise.

    Attributes:
        streams: how many were to speak at once.
        refused: how many got 503 instead of a session.
        troubles: what went wrong, and how often.
        stream_s: seconds of audio sent while costs were counted, over all streams.
        speech_share: voiced part of it.
        costs: by group: `gateway`, `triton`.
        models: Triton's counters.
        server: the clocks as the gateway's histograms have them; empty where they cannot be had.
        partials: how many came.
        late_p99: how late the generator's own frames were.
    """

    streams: int
    refused: int = 0
    troubles: dict[str, int] = field(default_factory=dict)
    stream_s: float = 0.0
    speech_share: float = 0.0
    clocks: Clocks = field(default_factory=Clocks)
    flicker: Flicker = field(default_factory=Flicker)
    words: dict[str, WordErrors] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)
    models: dict[str, ModelCounts] = field(default_factory=dict)
    server: dict[str, dict[str, float | int | None]] = field(default_factory=dict)
    partials: int = 0
    late_p99: float = 0.0

    def per_stream_second(self, group: str) -> float | None:
        """CPU seconds of a group for each second of one stream; None where they are not known."""
        cost = self.costs.get(group)
        return cost.cpu_s / self.stream_s if cost is not None and self.stream_s else None

    @property
    def partial_lag_p95(self) -> float | None:
        """The upper edge of the bucket in which the gateway has it; as the clients read it where that is less, or all
        there is. Both lie above the truth: a client does not see the windows that changed nothing."""
        bounds = [self.server.get("partial lag", {}).get("p95_at_most"), percentile(self.clocks.partial_lag, 95)]
        return min((bound for bound in bounds if bound is not None), default=None)

    def broken(self, limits: Limits) -> list[str]:
        """Which limits this level broke, in words; empty if it held."""
        reasons = [f"{count} x {trouble}" for trouble, count in self.troubles.items()]
        for name, p95, limit in (
            ("partial lag", self.partial_lag_p95, limits.partial_lag_p95),
            ("end of speech to final", percentile(self.clocks.end_to_final, 95), limits.end_to_final_p95),
        ):
            if p95 is not None and p95 > limit:
                reasons.append(f"{name} p95 {p95 * 1000:.0f} ms")
        if not self.clocks.partial_lag and not reasons:
            reasons.append("no partials came")
        if self.late_p99 > LATE_LIMIT_S:
            reasons.append(f"the load generator itself was {self.late_p99 * 1000:.0f} ms late")
        return reasons

    def to_json(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        finals = self.clocks.end_to_final
        return {
            "streams": self.streams,
            "refused_503": self.refused,
            "troubles": self.troubles,
            "stream_seconds": round(self.stream_s, 1),
            "speech_share": round(self.speech_share, 3),
            "clocks_s": self.clocks.summary(),
            "server_clocks_s": self.server,
            "partial_lag_p95_s": self.partial_lag_p95,
            "slowest_final_s": max(finals) if finals else None,
            "partials_per_speech_second": self.partials / max(1e-9, self.stream_s * self.speech_share),
            "wer": {language: {**asdict(errors), "rate": errors.rate} for language, errors in self.words.items()},
            "flicker": self.flicker.rate,
            "stable_violations": self.flicker.stable_violations,
            "cpu_s_per_stream_s": {group: self.per_stream_second(group) for group in self.costs},
            "cost": {group: asdict(cost) for group, cost in self.costs.items()},
            "models": {
                name: {**asdict(counts), "mean_batch": counts.mean_batch}
                for name, counts in self.models.items()
                if counts.inferences or counts.failures
            },
            "generator_late_p99_s": self.late_p99,
        }

    def line(self) -> str:
        """The level in one line of text."""
        lag, end = Percentiles.of(self.clocks.partial_lag), Percentiles.of(self.clocks.end_to_final)
        cpu = " + ".join(
            f"{group} {value:.3f}" for group in self.costs if (value := self.per_stream_second(group)) is not None
        )
        batches = [counts.mean_batch for counts in self.models.values() if counts.inferences and counts.mean_batch]
        rates = " ".join(f"{language} {errors.rate:.1%}" for language, errors in self.words.items())
        return (
            f"{self.streams:4d} streams  lag p50/p95/p99 {_ms(lag)}  final {_ms(end)} ms  "
            f"cpu {cpu or '?'} core/stream  batch {max(batches, default=0):.1f}  "
            f"WER {rates or '-'}  flicker {self.flicker.rate:.2f}"
        )


Progress = Callable[[str], None]


async def run_level(
    stack: Stack,
    tracks: Sequence[Track],
    *,
    frame_s: float = 0.02,
    api_key: str | None = None,
    progress: Progress | None = None,
) -> Level:
    """Has one stream say each track, all at once and in real time.

    CPU and Triton's counters go from the first frame to the last session's end, so that work which was put off is in
    them; stream seconds count the silence behind the tracks too.
    """
    level = Level(len(tracks))
    made = zip(tracks, make_all_frames(tracks, frame_s), strict=True)
    speakers = [Speaker(track, frames, frame_s) for track, frames in made]
    begun = []
    for number, speaker in enumerate(speakers):
        if await speaker.connect(stack.url, api_key, f"stream_load {number}"):
            begun.append(speaker)
    idle = await _idle_cores(stack)
    seconds = max(track.seconds for track in tracks)
    spread_s = SPREAD_S if len(tracks) > 1 else 0.0
    usages, counts, metrics = _usages(stack), stack.model_counts(), stack.metrics()

    def tell(passed: float) -> None:
        if progress is not None:
            progress(f"{len(begun)} streams, {min(passed, seconds):.0f} of {seconds:.0f} s")

    await speak_together(begun, seconds + spread_s, tell, spread_s=spread_s)
    loaded = _usages(stack)
    heard = await asyncio.gather(*(speaker.finished() for speaker in begun))
    after, last = _usages(stack), stack.model_counts()
    level.costs = {
        group: Cost(
            after[group].cpu_seconds - usages[group].cpu_seconds,
            idle[group],
            loaded[group].resident_bytes,
            loaded[group].processes,
        )
        for group in usages
    }
    level.models = {name: now.since(counts.get(name, ModelCounts())) for name, now in last.items()}
    level.stream_s = sum(speaker.heard.track.seconds + TRAILING_SILENCE_S for speaker in begun)
    level.speech_share = sum(s.heard.track.speech_share * s.heard.track.seconds for s in begun) / max(
        1e-9, level.stream_s
    )
    last_metrics = stack.metrics()
    if metrics and last_metrics:
        level.server = {name: histogram_between(metrics, last_metrics, of) for name, of in SERVER_CLOCKS.items()}
    _read(level, [*heard, *(speaker.heard for speaker in speakers if speaker not in begun)])
    return level


def _read(level: Level, heard: Sequence[Heard]) -> None:
    level.refused = sum(one.refused == 503 for one in heard)
    level.troubles = dict(Counter(one.trouble for one in heard if one.trouble))
    late = [seconds for one in heard for seconds in one.late_s]
    level.late_p99 = percentile(late, 99) or 0.0
    for one in heard:
        if one.refused or not one.sent_at:
            continue
        level.clocks.extend(one.clocks())
        level.flicker.extend(one.flicker())
        level.partials += sum(b'"type":"partial"' in raw for _, raw in one.messages)
        language = one.track.language
        level.words[language] = level.words.get(language, WordErrors()) + one.word_errors()


def _usages(stack: Stack) -> dict[str, Usage]:
    groups = {"gateway": stack.gateway_usage, "triton": stack.triton_usage}
    return {name: read() for name, read in groups.items() if read is not None}


async def _idle_cores(stack: Stack) -> dict[str, float]:
    before, since = _usages(stack), time.monotonic()
    if before:
        await asyncio.sleep(IDLE_S)
    passed = time.monotonic() - since
    return {name: (used.cpu_seconds - before[name].cpu_seconds) / passed for name, used in _usages(stack).items()}


def _ms(figures: Percentiles) -> str:
    values = (figures.p50, figures.p95, figures.p99)
    return "/".join("-" if value is None else f"{value * 1000:.0f}" for value in values)
