"""The four clocks, as a client can read them, and the flicker of the partials.

- **first partial**: arrival of the segment's first voiced sample to its first partial.
- **partial lag**: arrival of the oldest sample that a partial's window covers, and the window before it did not, to the
  partial: the hop counts. A client sees only windows that gave a new text, so for it "the window before" is the one of
  the partial before, and what it reads is at or above the truth. A segment's first partial has the clock above.
- **end of speech to final**: true end of the speech in the recording to the final. Segments that were cut in the
  middle of speech, because they were long or by `finalize`, end in no pause and have no such clock; neither have those
  that ended in a shorter silence than 0.4 s, as long ones may.
- **chunk to response**: a window sent to Triton to its hypothesis. Only the gateway can read it: `chunk_clock` takes it
  from `/metrics`.

"Arrival" of a sample is when its frame was handed to the socket, "to the partial" when that was read from it: over
loopback that adds the way through two sockets, a millisecond or so, to what the definitions say.

The true end of speech comes from the recording alone, offline, by energy. In frames of 10 ms, voice is what lies over
a threshold between the noise floor (10th percentile) and the speech level (95th percentile): 30 % of the way in dB,
at least 6 dB over the floor. Runs under 40 ms are clicks, gaps under 150 ms belong to the speech. No padding is added
to the end that is found; a soft last consonant may lie some 50 ms behind it, which the clock then counts as delay.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from math import ceil

import numpy as np
import numpy.typing as npt

from perf.wer import normalize, word_errors
from starling_client import Event, Final, Partial

FRAME_S = 0.01
CLICK_S = 0.04
GAP_S = 0.15
CUT_S = 0.4
"""Speech that goes on within so many seconds of a segment's end means that the segment was cut."""


@dataclass(frozen=True, slots=True)
class Span:
    """Voiced seconds of a recording."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds, and of how many readings."""

    count: int
    p50: float | None
    p95: float | None
    p99: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Percentiles:
        """Return the percentiles by the nearest rank: each is a value that was read."""
        return cls(len(values), *(percentile(values, rank) for rank in (50, 95, 99)))


@dataclass(slots=True)
class Clocks:
    """All readings of a run, in seconds."""

    first_partial: list[float] = field(default_factory=list)
    partial_lag: list[float] = field(default_factory=list)
    end_to_final: list[float] = field(default_factory=list)
    cut_segments: int = 0

    def extend(self, other: Clocks) -> None:
        """Add another run's readings."""
        self.first_partial += other.first_partial
        self.partial_lag += other.partial_lag
        self.end_to_final += other.end_to_final
        self.cut_segments += other.cut_segments

    def summary(self) -> dict[str, object]:
        """Return the percentiles of each clock, ready for JSON."""
        names = ("first_partial", "partial_lag", "end_to_final")
        clocks: dict[str, object] = {name: asdict(Percentiles.of(getattr(self, name))) for name in names}
        return {**clocks, "cut_segments": self.cut_segments}


@dataclass(slots=True)
class Flicker:
    """How restless the partials are."""

    changed_words: int = 0
    final_words: int = 0
    stable_violations: list[str] = field(default_factory=list)

    def extend(self, other: Flicker) -> None:
        """Add another run's counts."""
        self.changed_words += other.changed_words
        self.final_words += other.final_words
        self.stable_violations += other.stable_violations

    @property
    def rate(self) -> float:
        """Return words changed per final word."""
        return self.changed_words / max(1, self.final_words)


class Timeline:
    """When each sample was sent."""

    def __init__(self) -> None:
        """Begin with nothing sent."""
        self._ends: list[float] = []
        self._times: list[float] = []

    def sent(self, until_s: float, at: float) -> None:
        """Note that the audio up to `until_s` seconds was sent at the time `at`."""
        self._ends.append(until_s)
        self._times.append(at)

    def arrival(self, position_s: float) -> float:
        """Return when the sample at `position_s` seconds was sent."""
        frame = bisect_right(self._ends, position_s + 1e-6)
        return self._times[min(frame, len(self._times) - 1)]


def percentile(values: Sequence[float], rank: float) -> float | None:
    """Return the value of the nearest rank, 0 < `rank` <= 100; None where there are no values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, ceil(len(ordered) * rank / 100) - 1)]


def voiced_spans(samples: npt.NDArray[np.int16], rate: int) -> list[Span]:
    """Return where a recording holds speech; see the head of this module."""
    size = round(rate * FRAME_S)
    count = len(samples) // size
    if count == 0:
        return []
    frames = samples[: count * size].reshape(count, size).astype(np.float64)
    frames -= frames.mean(axis=1, keepdims=True)
    level = 10 * np.log10(np.mean(frames**2, axis=1) + 1.0)
    floor, speech = np.percentile(level, [10, 95])
    voiced = level > floor + max(6.0, 0.3 * (speech - floor))
    spans: list[Span] = []
    for start, end in _runs(voiced):
        if spans and start * FRAME_S - spans[-1].end < GAP_S:
            spans[-1] = Span(spans[-1].start, end * FRAME_S)
        elif (end - start) * FRAME_S >= CLICK_S:
            spans.append(Span(start * FRAME_S, end * FRAME_S))
    return spans


def read_clocks(events: Iterable[tuple[float, Event]], timeline: Timeline, spans: Sequence[Span]) -> Clocks:
    """Read the clocks from events with the times at which they came; `spans` are the recording's voiced seconds."""
    clocks = Clocks()
    covered: dict[int, float] = {}
    for at, event in events:
        if isinstance(event, Partial):
            before = covered.get(event.seq)
            covered[event.seq] = event.end
            if not event.text:
                # The segment turned out to be no speech: its number goes to the next one.
                del covered[event.seq]
            elif before is not None:
                clocks.partial_lag.append(at - timeline.arrival(before))
            elif (onset := _onset(event, spans)) is not None:
                clocks.first_partial.append(at - timeline.arrival(onset))
        elif isinstance(event, Final):
            end = _end_of_speech(event, spans)
            if end is None:
                clocks.cut_segments += 1
            else:
                clocks.end_to_final.append(at - timeline.arrival(end - FRAME_S))
    return clocks


def read_flicker(events: Iterable[Event]) -> Flicker:
    """Count, between each partial and the next one or the final, the words that were taken back or replaced.

    Where a segment was cut in the midst of speech, its last partial reaches beyond its final. The words behind the cut
    are compared with the next final, which they are in: they have moved, they were not taken back.
    """
    flicker = Flicker()
    shown: dict[int, Partial] = {}
    finals: list[Final] = []
    for event in events:
        if isinstance(event, Final):
            finals.append(event)
        elif isinstance(event, Partial):
            # The next segment's partials begin before the final of one that was cut.
            before = shown.pop(event.seq, None)
            if before is not None:
                flicker.changed_words += _changed(before.text, event.text, event.language)
                flicker.stable_violations += _broken_promises(before, event)
            if event.text:
                shown[event.seq] = event
    for final, following in zip_longest(finals, finals[1:]):
        flicker.final_words += len(normalize(final.text, final.language))
        last = shown.get(final.seq)
        if last is not None:
            behind = following.text if following is not None and last.end > final.end else ""
            flicker.changed_words += _changed(last.text, final.text, final.language, behind)
    return flicker


def _changed(before: str, after: str, language: str, behind: str = "") -> int:
    """Words of `before` that are not in `after` as far as it reaches, and then in the beginning of `behind`."""
    # Words that come in between change no other word, so this counts by the shortest alignment and not by position.
    more = normalize(behind, language)[: len(normalize(before, language))]
    ways = (word_errors(before, " ".join([after, *more[:count]]), language) for count in range(len(more) + 1))
    errors = min(ways, key=lambda way: way.errors)
    return errors.substitutions + errors.deletions


def _broken_promises(before: Partial, after: Partial) -> list[str]:
    if after.stable >= before.stable and after.text.startswith(before.stable_text):
        return []
    return [f"seq {after.seq}: {before.stable_text!r} was promised, then came {after.text!r} (stable {after.stable})"]


def _onset(segment: Partial, spans: Sequence[Span]) -> float | None:
    return next((max(span.start, segment.start) for span in spans if span.end > segment.start), None)


def _end_of_speech(segment: Final, spans: Sequence[Span]) -> float | None:
    """Return the end of the last speech that began within the segment, None where speech went on over its end."""
    inside = [span for span in spans if span.start < segment.end and span.end > segment.start]
    if not inside:
        return None
    end = inside[-1].end
    return None if end > segment.end + CUT_S or any(0 <= span.start - end < CUT_S for span in spans) else end


def _runs(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def chunk_clock(before: str, after: str) -> dict[str, float | int | None]:
    """Return chunk to response from two readings of `/metrics`: count, mean and bounds of p50, p95, p99 in seconds.

    A histogram knows a percentile only as "at most the upper edge of its bucket"; that edge is given.
    """
    return histogram_between(before, after, "starling_chunk_to_response_seconds")


def histogram_between(before: str, after: str, name: str) -> dict[str, float | int | None]:
    """Return what a Prometheus histogram, summed over its labels, counted between two readings."""
    first, last = _histogram(before, name), _histogram(after, name)
    buckets = {edge: count - first[0].get(edge, 0.0) for edge, count in last[0].items()}
    seconds = last[1] - first[1]
    count = int(buckets.get(float("inf"), 0))
    result: dict[str, float | int | None] = {"count": count, "mean": seconds / count if count else None}
    for rank in (50, 95, 99):
        edge = next((e for e in sorted(buckets) if count and buckets[e] >= count * rank / 100), None)
        result[f"p{rank}_at_most"] = None if edge == float("inf") else edge
    return result


def _histogram(text: str, name: str) -> tuple[dict[float, float], float]:
    buckets: dict[float, float] = {}
    seconds = 0.0
    for line in text.splitlines():
        if line.startswith(f"{name}_bucket"):
            edge = float(line.split('le="', 1)[1].split('"', 1)[0])
            buckets[edge] = buckets.get(edge, 0.0) + float(line.rsplit(" ", 1)[1])
        elif line.startswith(f"{name}_sum"):
            seconds += float(line.rsplit(" ", 1)[1])
    return buckets, seconds
