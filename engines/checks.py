"""What every speech engine checks before it spends work on a window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engines.base import NO_TOKENS, SAMPLE_RATE, EngineError, Hypothesis, Window

MIN_SECONDS = 0.1
MAX_SECONDS = 30.0
_LOOP_REPEATED = 3
_LEVEL_FLOOR = 16.0
"""Root mean square, of 32768, below which nothing can be speech: -66 dB of full scale."""


def refusal(window: Window) -> EngineError | None:
    """Why the audio of `window` cannot be decoded, or None."""
    if window.audio.dtype != np.int16 or window.audio.ndim != 1:
        return EngineError("audio must be one row of int16 samples at 16 kHz")
    seconds = len(window.audio) / SAMPLE_RATE
    if seconds < MIN_SECONDS:
        return EngineError(f"{seconds:.3f} s of audio is too short: send at least {MIN_SECONDS} s")
    if seconds > MAX_SECONDS:
        return EngineError(f"{seconds:.1f} s of audio is too long: send at most {MAX_SECONDS:.0f} s")
    return None


def is_silent(window: Window) -> bool:
    """Whether there is no level but a constant offset, which carries no sound."""
    return float(window.audio.std(dtype=np.float32)) < _LEVEL_FLOOR


def nothing_said(language: str) -> Hypothesis:
    """The hypothesis for a window that needs no decoding."""
    return Hypothesis("", NO_TOKENS, 0.0, language, stats={"decoder_passes": 0.0, "no_speech": 1.0})


def without_loop(tokens: Sequence[int]) -> Sequence[int]:
    """Leaves a repetition at the end out but for its first turn: what a word cut in two does to greedy decoding.

    Only for rows that the token limit stopped; who says a thing three times ends with an end mark.
    """
    for period in range(1, len(tokens) // 2 + 1):
        repeated = 0
        while repeated + period < len(tokens) and tokens[-1 - repeated] == tokens[-1 - repeated - period]:
            repeated += 1
        if repeated >= max(period, _LOOP_REPEATED):
            return tokens[: len(tokens) - repeated]
    return tokens
