"""Compares the policies on recordings: decoded by the ASR engine, cut at their pauses as a live session cuts them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import resample_poly

from engines.base import SAMPLE_RATE, Engine, EngineError, Window
from engines.punctuation.text import Mark, Unit, parse
from training.punctuation.scores import Scores

FRAME = SAMPLE_RATE // 100
MIN_SEGMENT_S = 0.3
MAX_SEGMENT_S = 30.0


@dataclass(frozen=True, slots=True)
class Recording:
    """One clip: what was said, and what the ASR model wrote for each of its segments."""

    name: str
    transcript: str
    segments: tuple[str, ...]


def read(manifest: Path, language: str, engine: Engine, pause: float) -> Iterator[Recording]:
    """Decodes the manifest's clips of one language.

    The manifest is tab separated with the columns file, language and transcript; files lie beside it. ``pause`` is the
    silence in seconds that ends a segment.
    """
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["language"] == language]
    for row in rows:
        audio = _load(manifest.parent / row["file"])
        windows = [Window(audio[start:end], language) for start, end in _segments(audio, pause)]
        results = [engine.transcribe([window])[0] for window in windows]
        texts = tuple(r.text for r in results if not isinstance(r, EngineError) and r.text)
        yield Recording(row["file"], row["transcript"], texts)


def _load(path: Path) -> NDArray[np.int16]:
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = resample_poly(audio.mean(1), SAMPLE_RATE, rate) if rate != SAMPLE_RATE else audio.mean(1)
    samples: NDArray[np.int16] = np.clip(mono * 32768, -32768, 32767).astype(np.int16)
    return samples


def _segments(audio: NDArray[np.int16], pause: float) -> list[tuple[int, int]]:
    """Stretches of speech by energy against the clip's own noise and speech level, a little silence kept round each."""
    frames = audio[: len(audio) // FRAME * FRAME].astype(np.float64).reshape(-1, FRAME)
    level = 10 * np.log10((frames**2).mean(1) + 1)
    quiet, loud = np.percentile(level, 10), np.percentile(level, 95)
    voiced = np.flatnonzero(level > max(quiet + 0.25 * (loud - quiet), loud - 35))
    if not len(voiced):
        return []
    breaks = np.flatnonzero(np.diff(voiced) > pause * 100)
    starts, ends = voiced[np.r_[0, breaks + 1]], voiced[np.r_[breaks, len(voiced) - 1]]
    margin = 20
    spans = [
        ((max(s - margin, 0)) * FRAME, min(e + margin, len(frames)) * FRAME) for s, e in zip(starts, ends, strict=True)
    ]
    longest = int(MAX_SEGMENT_S * SAMPLE_RATE)
    return [
        (start, min(start + longest, end))
        for first, end in spans
        for start in range(first, end, longest)
        if end - first >= MIN_SEGMENT_S * SAMPLE_RATE
    ]


def score(scores: Scores, transcript: str, written: str) -> None:
    """Counts a whole transcript's marks and casing where its words were recognised.

    A mark after a word that was missed counts as missing, one after a word that was never said as too many.
    """
    truth, found = [u for u in parse(transcript) if u.last], [u for u in parse(written) if u.last]
    for want, got in align(truth, found):
        scores.add_mark(want.mark if want else Mark.NONE, got.mark if got else Mark.NONE)
        if want and got and want.form.lower() == got.form.lower():
            scores.add_case(want.form, got.form)


SUBSTITUTED, MISSED = 4, 3
"""Edit costs as in NIST's sclite: two words that differ are paired only where that saves an edit."""


def align(truth: Sequence[Unit], found: Sequence[Unit]) -> list[tuple[Unit | None, Unit | None]]:
    """Pairs the units of two texts with the least cost of edits."""
    rows, columns = len(truth) + 1, len(found) + 1
    cost = np.zeros((rows, columns), np.int32)
    cost[:, 0], cost[0, :] = MISSED * np.arange(rows), MISSED * np.arange(columns)
    for i in range(1, rows):
        for j in range(1, columns):
            paired = cost[i - 1, j - 1] + _differ(truth[i - 1], found[j - 1])
            cost[i, j] = min(paired, cost[i - 1, j] + MISSED, cost[i, j - 1] + MISSED)
    pairs: list[tuple[Unit | None, Unit | None]] = []
    i, j = rows - 1, columns - 1
    while i or j:
        if i and j and cost[i, j] == cost[i - 1, j - 1] + _differ(truth[i - 1], found[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((truth[i], found[j]))
        elif i and cost[i, j] == cost[i - 1, j] + MISSED:
            i -= 1
            pairs.append((truth[i], None))
        else:
            j -= 1
            pairs.append((None, found[j]))
    return pairs[::-1]


def _differ(want: Unit, got: Unit) -> int:
    return 0 if want.form.lower() == got.form.lower() else SUBSTITUTED
