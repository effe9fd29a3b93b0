"""One segment: its audio, the windows decoded of it, and the hypotheses that came back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from server.session.commands import NO_TOKENS
from server.session.hypothesis import StablePrefix
from server.session.messages import Partial
from server.session.settings import RATE, VAD_WINDOW, Policy
from server.session.text import says_something

ENERGY_FRAME = 320
"""Samples of one loudness value when the quietest point is looked for: 20 ms."""

QUIETEST_FRAMES = 8
"""The quietest stretch is this many frames long: 160 ms, more than the closure of a stop consonant."""


TRIM_PATIENCE_S = 1.5
"""A window this much longer than one to be trimmed is trimmed before the next partial."""

PAUSE_OVERLAP = 2 * VAD_WINDOW
"""Silence that a window behind a pause begins with, so that a soft onset is not cut."""


class Kind(Enum):
    """What a decode was for."""

    PARTIAL = "partial"
    COMMIT = "commit"
    FINAL = "final"


@dataclass(frozen=True, slots=True, eq=False)
class Hypothesis:
    """What a model heard in one window.

    Attributes:
        text: in the model's own casing and marks.
        tokens: int32, shape (k,); the draft for the next window.
        confidence: 0 to 1.
        language: the language decoded in.
        words: confidence in each word of `text` split at white space, float32, shape (n,); None or
            empty where the model gives none.
    """

    text: str
    tokens: NDArray[np.int32]
    confidence: float
    language: str
    words: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A decode under way for a segment: the 16 kHz range it covers."""

    number: int
    kind: Kind
    start: int
    end: int


class Segment:
    """A stretch of speech from its onset on. Positions are 16 kHz samples since the chain's origin.

    Partials are decoded from a window that begins at `base`: at the segment's start, or behind a pause whose words
    are committed. The final is always decoded from the whole segment.
    """

    def __init__(
        self, policy: Policy, *, start: int, speech: int, language: str, start_s: float, unheard: int = 0
    ) -> None:
        self._policy = policy
        self.start = start
        self.speech = speech
        self.language = language
        self.start_s = start_s
        self.end_s = start_s
        self.base = start
        self.covered = speech
        """End of the audio that the newest answered window covers."""
        self.news_from = speech
        """Where the audio begins that this window was the first to cover."""
        self.prefix = StablePrefix(policy.sure_confidence, policy.sure_last_confidence, policy.hold_back_words)
        self.job: Job | None = None
        self.beside: Job | None = None
        """The partial that was under way when the final was asked for: it will be there first."""
        self._trim_failed_at = 0
        """End of the audio judged when a trim was lost: before the next one a partial is tried."""
        self.final: tuple[int, Hypothesis] | None = None
        """The newest decode of the whole segment and the position it ended at."""
        self.restart = 0
        """Input offset where the chain started afresh after this segment."""
        self.speech_arrival: float | None = None
        """Arrival time of the last sample of speech."""
        self.unheard: int | None = unheard
        """Input offset of the first speech that no window of another segment covered, until a partial is shown."""
        self.shown = ""
        """Text of the last partial sent."""
        self.promised = 0
        """How much of the partials sent was said to be stable."""
        self._spoke_again = False
        self.heard_language = ""
        """The language that the newest hypothesis is in."""
        self._tokens: NDArray[np.int32] = NO_TOKENS
        self._committed_tokens: NDArray[np.int32] = NO_TOKENS

    @property
    def text_language(self) -> str:
        """The language that the words are in, as far as is known."""
        return (self.final and self.final[1].language) or self.heard_language or self.language

    @property
    def is_decoded(self) -> bool:
        """Its final's hypothesis is there and no other is awaited."""
        return self.final is not None and self.job is None

    @property
    def says_something(self) -> bool:
        """Whether there are words in the decode of the whole segment."""
        return self.final is not None and says_something(self.final[1].text)

    def is_due(self, detected: int) -> bool:
        """Something is to be decoded for partials, given the audio that voice activity has judged."""
        return self.job is None and (self.has_news(detected) or self._may_trim())

    def has_news(self, detected: int) -> bool:
        """Enough new speech for another partial."""
        first = self.covered == self.speech
        hop = self._policy.first_hop_windows if first else self._policy.hop_windows
        return detected - self.covered >= hop * VAD_WINDOW

    def partial(self, seq: int, end_s: float) -> Partial | None:
        """What is to be shown of the audio up to the session time `end_s`; None if that is shown already."""
        text = self.prefix.text
        if text == self.shown:
            return None
        self.shown, self.promised = text, self.prefix.stable
        return Partial(text, self.text_language, seq, self.start_s, end_s, self.prefix.stable)

    def retraction(self, seq: int) -> Partial | None:
        """Takes back what was shown of a segment in which nothing was said after all; None if nothing was."""
        return Partial("", self.text_language, seq, self.start_s, self.end_s, 0) if self.shown else None

    def draft(self, start: int) -> NDArray[np.int32]:
        """The tokens to expect in a window that begins at `start`."""
        if start == self.base and start != self.start:
            return self._tokens
        return np.concatenate([self._committed_tokens, self._tokens])

    def trim_range(self, detected: int) -> tuple[int, int] | None:
        """Where the window that was decoded last may be trimmed; None where it is not too long, or another partial is
        due first: trimming is for the time between two."""
        too_long = self.covered - self.base > (self._policy.trim_after_s + TRIM_PATIENCE_S) * RATE
        if not self._may_trim() or (self.has_news(detected) and not too_long):
            return None
        keep = int(self._policy.trim_keep_s * RATE)
        return self.base + keep, self.covered - keep

    def _may_trim(self) -> bool:
        long = self.covered - self.base > self._policy.trim_after_s * RATE
        return long and self.covered > self._trim_failed_at

    def ask(self, job: Job) -> None:
        """`job` is asked for; a partial under way goes on beside a final."""
        self.beside, self.job = self.job, job

    def withdraw(self, but: Job | None = None) -> list[Job]:
        """Forgets the jobs under way but for one; returns them."""
        gone = [job for job in (self.beside, self.job) if job is not None and job is not but]
        self.beside, self.job = None, but
        return gone

    def take(self, job: Job, hypothesis: Hypothesis) -> None:
        """Takes the answer of `job`."""
        self._forget(job)
        self.heard_language = hypothesis.language
        if job.kind is not Kind.COMMIT:
            self.news_from, self.covered = self.covered, job.end
        if job.kind is Kind.FINAL:
            self.final = (job.end, hypothesis)
            self.prefix.update(hypothesis.text, hypothesis.words, whole=True, complete=True)
            if self.base == self.start:
                self._tokens = hypothesis.tokens
            if self._spoke_again:
                self._trim_behind_pause()
        elif job.kind is Kind.COMMIT:
            whole = self.base == self.start
            self.prefix.commit(hypothesis.text, whole=whole)
            self._committed_tokens = np.concatenate([self._committed_tokens, hypothesis.tokens])
            # What is left of the window's hypothesis is about what the rest of the window says.
            self._tokens = self._tokens[len(hypothesis.tokens) :]
            self.base = job.end
        else:
            self.prefix.update(hypothesis.text, hypothesis.words, whole=self.base == self.start)
            self._tokens = hypothesis.tokens

    def lose(self, job: Job, detected: int) -> None:
        """`job` failed: the audio so far counts as covered, so that the next try waits for new speech."""
        self._forget(job)
        if job.kind is Kind.COMMIT:
            self.covered = self._trim_failed_at = detected
        else:
            self.covered = job.end

    def _forget(self, job: Job) -> None:
        if job is self.beside:
            self.beside = None
        else:
            self.job = None

    def quiet(self) -> None:
        """A short silence has begun: the segment may be over."""
        self._spoke_again = False

    def resume(self) -> None:
        """Speech has gone on after a short silence: what was decoded at the silence can be left behind."""
        self._spoke_again = True
        if self.job is None and self.final is not None:
            self._trim_behind_pause()

    def _trim_behind_pause(self) -> None:
        if self.final is None or self.final[0] - self.base < self._policy.trim_keep_s * RATE:
            return
        end, hypothesis = self.final
        self.prefix.commit(hypothesis.text, whole=True)
        self._committed_tokens = hypothesis.tokens
        self._tokens = NO_TOKENS
        self.base = end - PAUSE_OVERLAP


def quietest(audio: NDArray[np.int16]) -> int:
    """The middle of the quietest 160 ms of `audio` (int16, shape (n,)), as a position within it; the later of equals.

    For audio shorter than that, its end.
    """
    frames = len(audio) // ENERGY_FRAME
    if frames < QUIETEST_FRAMES:
        return len(audio)
    shaped = audio[: frames * ENERGY_FRAME].reshape(frames, ENERGY_FRAME).astype(np.float64)
    energy = np.convolve(np.square(shaped).mean(axis=1), np.ones(QUIETEST_FRAMES), "valid")
    last = len(energy) - 1 - int(np.argmin(energy[::-1]))
    return last * ENERGY_FRAME + QUIETEST_FRAMES * ENERGY_FRAME // 2
