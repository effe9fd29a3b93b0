"""A world in which words are loudness: audio whose transcript and speech are pure functions of its samples.

Every stretch of sound is a plateau of constant amplitude, which every codec and resampler here passes on. The detector
and the decoder read the amplitudes back. Both look at every sample: a window that lost one, or a detector that was not
reset where it should have been, gives another answer.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase

import numpy as np
from numpy.typing import NDArray

from server.audio.codec import encode_alaw, encode_mulaw
from server.session.segment import Hypothesis
from server.session.settings import VAD_WINDOW

SILENCE, NOISE, MURMUR, GHOST = "silence", "noise", "murmur", "ghost"
"""No sound; sound that is no speech; sound that may be speech and holds no words; a word only short windows hear."""

WORDS = ("Anna", "o'clock", "well-known", "the", "Über", "3.5", "Tokyo")
_LOUDNESS = {
    SILENCE: 0,
    NOISE: 200,
    MURMUR: 450,
    GHOST: 1000,
    **{w: int(1600 * 1.5**i) for i, w in enumerate(WORDS)},
}
SOUNDS = tuple(_LOUDNESS)
_EDGES = np.sqrt(np.array([100, *list(_LOUDNESS.values())[1:-1]]) * np.array(list(_LOUDNESS.values())[1:]))
_SPEECH = np.array([0.03, 0.30, 0.5, *[0.92] * (len(SOUNDS) - 3)])
_SHAKE = 0.12
"""How much a probability depends on what came before the window."""

GHOST_WINDOWS = 24
"""A ghost is heard in windows of less than this many times 32 ms."""

_MIN_RUN = 160
"""Samples below which a plateau is no word: 10 ms, more than a resampler rings."""
_LENGTH_STEP = 800
"""A word's text tells its length in steps of 50 ms."""


@dataclass(frozen=True)
class Sound:
    """A stretch of one sound."""

    kind: str
    ms: int


def render(sounds: Sequence[Sound], rate: int) -> NDArray[np.int16]:
    """The samples of `sounds`, one after the other."""
    parts = [np.full(sound.ms * rate // 1000, _LOUDNESS[sound.kind], np.int16) for sound in sounds]
    return np.concatenate([np.empty(0, np.int16), *parts])


def encode(samples: NDArray[np.int16], encoding: str) -> bytes:
    """Samples as a client would send them."""
    match encoding:
        case "mulaw":
            return encode_mulaw(samples)
        case "alaw":
            return encode_alaw(samples)
        case "pcm_f32le":
            return (samples / np.float32(32768)).astype("<f4").tobytes()
        case _:
            return samples.astype("<i2").tobytes()


def sample_width(encoding: str) -> int:
    """Bytes of one sample."""
    return {"pcm_s16le": 2, "pcm_f32le": 4}.get(encoding, 1)


def _classes(samples: NDArray[np.int16]) -> NDArray[np.intp]:
    return np.digitize(np.abs(samples.astype(np.int32)), _EDGES)


def detect(state: object | None, samples: NDArray[np.int16]) -> tuple[list[float], object]:
    """Speech probabilities of k windows; the state is a hash of all windows since the chain's start."""
    memory = state if isinstance(state, int) else 0
    assert len(samples) % VAD_WINDOW == 0
    windows = samples.reshape(-1, VAD_WINDOW)
    bases = _SPEECH[_classes(samples)].reshape(-1, VAD_WINDOW).mean(axis=1)
    probabilities = []
    for window, base in zip(windows, bases, strict=True):
        memory = zlib.crc32(window.tobytes(), memory)
        probabilities.append(float(base + _SHAKE * (memory % 1009 / 1008 - 0.5)))
    return probabilities, memory


def heard(audio: NDArray[np.int16]) -> list[tuple[str, bool]]:
    """The words in `audio`, each with whether it touches the end of the audio, where it may be cut in two."""
    classes = _classes(audio)
    borders = np.flatnonzero(np.diff(classes)) + 1
    starts, stops = np.r_[0, borders], np.r_[borders, len(classes)]
    words = []
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        kind = SOUNDS[classes[start]] if stop - start >= _MIN_RUN else SILENCE
        is_word = kind in WORDS or (kind == GHOST and len(audio) < GHOST_WINDOWS * VAD_WINDOW)
        if is_word:
            length = ascii_lowercase[min((stop - start) // _LENGTH_STEP, 25)]
            words.append((kind + length, stop == len(audio)))
    return words


def decode(audio: NDArray[np.int16], language: str, *, with_words: bool = True) -> Hypothesis:
    """What the model hears; its confidence is a hash of the audio, so that equal finals heard equal samples."""
    words = heard(audio)
    text = " ".join(word for word, _ in words)
    tokens = np.array([zlib.crc32(word.encode()) & 0x7FFF for word, _ in words], np.int32)
    sure = np.array([0.4 if cut else 0.9 for _, cut in words], np.float32) if with_words else None
    confidence = zlib.crc32(audio.tobytes()) / 2**32
    return Hypothesis(f"{text}." if text else "", tokens, confidence, language, sure)


def punctuate(text: str, context: str, language: str) -> str:
    """Marks that depend on all that punctuation is told."""
    return f"{text[:-1]}, {language}{zlib.crc32(context.encode()) % 97}!"
