"""Tells text that was heard from text that was made up (Whisper paper, section 4.5, and what noise gave here).

Measured: noise, hum and clicks have a no-speech probability over 0.6 and a mean log-probability under -1.5, except
where the model writes a caption in capitals (music, gunshot) or loops. Words cut off at an edge have -1 to -2 as
well, so a low log-probability alone is no reason to drop a text, only to trust it less.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

MAX_COMPRESSION = 2.4
UNSURE_LOGPROB = -1.0
NOISE_LOGPROB = -1.5
MAX_NO_SPEECH = 0.6
_RETRY_SECONDS = 5.0
_MAX_CHARACTERS_PER_SECOND = 35.0
_SLACK_CHARACTERS = 20
_CAPTION_LETTERS = 4


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the checks say of one decoding.

    Attributes:
        looped: the text repeats itself, or is longer than anyone could say.
        no_speech: the model holds the window for silence and does not believe its text, or captions a sound.
        unsure: the mean log-probability is low over a window long enough to tell.
    """

    looped: bool
    no_speech: bool
    unsure: bool

    @property
    def made_up(self) -> bool:
        """Whether the text must not be used."""
        return self.looped or self.no_speech

    @property
    def retry(self) -> bool:
        """Whether more context may help. It did for loops; for cut words and for noise it never did."""
        return self.looped or (self.unsure and not self.no_speech)


def compression_ratio(text: str) -> float:
    """How many times zlib shrinks `text`: about 1.5 for prose, far more for loops."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


def judge(text: str, seconds: float, mean_logprob: float, no_speech: float) -> Judgement:
    """Judges the `text` decoded from `seconds` of audio."""
    too_long = len(text) > _SLACK_CHARACTERS + _MAX_CHARACTERS_PER_SECOND * seconds
    looped = too_long or compression_ratio(text) > MAX_COMPRESSION
    caption = text.isupper() and sum(map(str.isalpha, text)) >= _CAPTION_LETTERS
    silent = no_speech > MAX_NO_SPEECH and (mean_logprob < NOISE_LOGPROB or caption)
    return Judgement(looped, silent, mean_logprob < UNSURE_LOGPROB and seconds >= _RETRY_SECONDS)
