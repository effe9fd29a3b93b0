"""Tells text that was heard from text that was made up (thresholds of the Whisper paper, section 4.5)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

MAX_COMPRESSION = 2.4
MIN_LOGPROB = -1.0
MAX_NO_SPEECH = 0.6
_MAX_CHARACTERS_PER_SECOND = 35.0
_SLACK_CHARACTERS = 20


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the checks say of one decoding.

    Attributes:
        looped: the text repeats itself, or is longer than anyone could say.
        unsure: the mean log-probability is low.
        no_speech: the model itself holds the window for silence, and is unsure of the text.
    """

    looped: bool
    unsure: bool
    no_speech: bool

    @property
    def good(self) -> bool:
        """Whether the text may be used as it is."""
        return not (self.looped or self.unsure or self.no_speech)


def compression_ratio(text: str) -> float:
    """How many times zlib shrinks `text`: about 1.5 for prose, far more for loops."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


def judge(text: str, seconds: float, mean_logprob: float, no_speech: float) -> Judgement:
    """Judges the `text` decoded from `seconds` of audio."""
    too_long = len(text) > _SLACK_CHARACTERS + _MAX_CHARACTERS_PER_SECOND * seconds
    looped = too_long or compression_ratio(text) > MAX_COMPRESSION
    unsure = mean_logprob < MIN_LOGPROB
    return Judgement(looped, unsure, no_speech > MAX_NO_SPEECH and unsure)
