"""What a load generator's stream says: recordings put together to a stream of a given length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import gcd
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from perf.accuracy import Clip, read_manifest
from perf.clocks import Span, voiced_spans
from starling_cli.audio_files import AudioFile

DEFAULT_MANIFEST = Path(__file__).resolve().parent.parent / "tests" / "data" / "audio" / "transcripts.tsv"
PAUSES_S = (0.8, 2.5)
"""Shortest and longest silence between two recordings of one stream."""
CONTINUOUS_GAP_S = 0.1
"""Silence between two recordings whose own edges were cut off: too short for an endpoint."""

Samples = NDArray[np.int16]


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """One stream's audio.

    Attributes:
        samples: int16, shape (n,).
        rate: Hz.
        language: of all recordings in it.
        transcript: what is said in it.
        spans: the seconds in which it is said, in the order of time.
    """

    samples: Samples
    rate: int
    language: str
    transcript: str
    spans: tuple[Span, ...]

    @property
    def seconds(self) -> float:
        """Length."""
        return len(self.samples) / self.rate

    @property
    def speech_share(self) -> float:
        """Voiced part of the length."""
        return sum(span.end - span.start for span in self.spans) / self.seconds

    def frames(self, frame_s: float) -> list[Samples]:
        """The audio in frames of equal length, the last one filled with silence."""
        size = round(frame_s * self.rate)
        padded = np.pad(self.samples, (0, -len(self.samples) % size))
        return list(padded.reshape(-1, size))


def load_clips(
    manifest: Path, languages: Sequence[str] | None = None, names: Sequence[str] | None = None
) -> list[Clip]:
    """The recordings of a manifest, restricted to some languages and to file names that hold one of `names`.

    Raises:
        ValueError: nothing is left.
    """
    clips = [
        clip
        for clip in read_manifest(manifest)
        if (not languages or clip.language in languages) and (not names or any(n in clip.path.name for n in names))
    ]
    if not clips:
        raise ValueError(f"{manifest} has no recording of {languages or 'any language'} named {names or 'anything'}")
    return clips


@cache
def read_samples(path: Path, rate: int) -> Samples:
    """A recording as mono int16 at `rate` Hz, shape (n,); read once."""
    file = AudioFile(path)
    samples = np.concatenate(list(file.pieces(1.0)))
    file.close()
    if file.rate == rate:
        return samples
    common = gcd(file.rate, rate)
    resampled = resample_poly(samples.astype(np.float64), rate // common, file.rate // common)
    return np.clip(np.rint(resampled), -32768, 32767).astype(np.int16)


def make_tracks(
    clips: Sequence[Clip], count: int, seconds: float, *, continuous: bool = False, rate: int = 16000
) -> list[Track]:
    """Tracks of equal length that begin with different recordings; the same for the same arguments.

    Recordings are never cut, for then nobody could say which words are in them: what remains at the end is silence.

    Args:
        clips: where there are several languages, the tracks take turns among them.
        count: how many tracks.
        seconds: how long each is at least; one that a single recording exceeds becomes as long as that.
        continuous: without pauses, the recordings' own silent edges cut off.
        rate: Hz.
    """
    languages = sorted({clip.language for clip in clips})
    tracks = []
    for number in range(count):
        language = languages[number % len(languages)]
        spoken = [clip for clip in clips if clip.language == language]
        turn = number // len(languages) % len(spoken)
        pauses = np.random.default_rng(number)
        tracks.append(_put_together(spoken[turn:] + spoken[:turn], seconds, continuous, rate, pauses))
    return tracks


def _put_together(
    clips: Sequence[Clip], seconds: float, continuous: bool, rate: int, pauses: np.random.Generator
) -> Track:
    pieces: list[Samples] = []
    spans: list[Span] = []
    words: list[str] = []
    length = said = 0
    while True:
        before = length
        for clip in clips:
            samples, voiced = _trimmed(clip.path, rate) if continuous else _whole(clip.path, rate)
            if length and (length + len(samples)) / rate > seconds:
                continue
            gap = CONTINUOUS_GAP_S if continuous else pauses.uniform(*PAUSES_S)
            spans += [Span(span.start + length / rate, span.end + length / rate) for span in voiced]
            pieces += [samples, np.zeros(round(gap * rate), np.int16)]
            words.append(clip.transcript)
            said = length + len(samples)
            length += len(samples) + len(pieces[-1])
        if length == before:
            break
    wanted = max(said, round(seconds * rate))
    pieces.append(np.zeros(max(0, wanted - length), np.int16))
    return Track(np.concatenate(pieces)[:wanted], rate, clips[0].language, " ".join(words), tuple(spans))


@cache
def _whole(path: Path, rate: int) -> tuple[Samples, tuple[Span, ...]]:
    samples = read_samples(path, rate)
    return samples, tuple(voiced_spans(samples, rate))


@cache
def _trimmed(path: Path, rate: int) -> tuple[Samples, tuple[Span, ...]]:
    samples, spans = _whole(path, rate)
    if not spans:
        return samples, spans
    start = spans[0].start
    inside = samples[round(start * rate) : round(spans[-1].end * rate)]
    return inside, tuple(Span(span.start - start, span.end - start) for span in spans)
