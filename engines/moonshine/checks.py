"""Tells what was heard from what Moonshine makes up out of noise and silence.

Every rule answers something seen: a lone "You" with no mark after it (silence, noise, clicks), notes (hum, tones), a
sentence in a loop up to the token limit (noise), and words that the model itself does not believe (tones). Speech of
three seconds never had a confidence under 0.36; cut words in windows of half a second do.
"""

from __future__ import annotations

from collections.abc import Sequence

_UNSURE = ((1.5, 0.25), (1.0, 0.15))
"""From so many seconds on, the confidence that speech has at least."""

_LOOP_TOKENS = 12
_LOOP_VARIETY = 0.5


def made_up(text: str, tokens: Sequence[int], seconds: float, confidence: float, *, stopped: bool) -> bool:
    """Whether there was no speech behind `text`. `stopped`: the token limit came before the end mark."""
    if not any(character.isalnum() for character in text) or text == "You":
        return True
    if stopped and len(tokens) >= _LOOP_TOKENS and len(set(tokens)) < _LOOP_VARIETY * len(tokens):
        return True
    return any(seconds >= length and confidence < least for length, least in _UNSURE)
