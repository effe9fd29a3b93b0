"""The values and the one method that every speech engine shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16000
"""Every engine hears 16 kHz mono."""

NO_TOKENS: NDArray[np.int32] = np.empty(0, np.int32)
NO_WORDS: NDArray[np.float32] = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """One stretch of audio to decode, independent of every other.

    Attributes:
        audio: int16 samples at 16 kHz, shape (n,).
        language: language code such as ``en``; ``auto`` where the engine can detect it.
        draft: token ids of an earlier hypothesis for about the same audio, shape (m,). A hint: it may make
            decoding faster and never changes the text.
        is_partial: the words are shown and soon replaced: one try has to do.
    """

    audio: NDArray[np.int16]
    language: str
    draft: NDArray[np.int32] = field(default_factory=lambda: NO_TOKENS)
    is_partial: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Hypothesis:
    """What an engine heard in one window.

    Attributes:
        text: the model's own casing and marks, stripped; empty where there was no speech.
        tokens: int32 ids without begin and end marks, shape (k,); the next window's draft.
        confidence: 0 to 1; ranks segments, is not a probability of being right.
        language: the language decoded in.
        words: confidence in each of the words that `text` splits into at white space, float32, shape (n,); empty where
            the model gives none.
        stats: counters for measurement, such as ``decoder_passes`` or ``accepted``.
    """

    text: str
    tokens: NDArray[np.int32]
    confidence: float
    language: str
    words: NDArray[np.float32] = field(default_factory=lambda: NO_WORDS)
    stats: dict[str, float] = field(default_factory=dict)


class EngineError(Exception):
    """One window cannot be decoded; says why and what to send instead. Its batch neighbours are not touched."""


class Engine(Protocol):
    """A speech model: batch in, batch out."""

    def transcribe(self, windows: Sequence[Window]) -> list[Hypothesis | EngineError]:
        """Decodes each window by itself: its result is the same whoever shares the batch.

        Returns one entry per window, in order; an `EngineError` for a window that cannot be decoded.
        """

    def close(self) -> None:
        """Frees threads and memory."""
