"""What a session says to its client, apart from how a wire protocol writes it down."""

from __future__ import annotations

from dataclasses import dataclass

from session_store.base import Final


@dataclass(frozen=True, slots=True)
class Opened:
    """First message: who the session is and where its audio stands."""

    session_id: str
    token: str
    resumed: bool
    language: str
    encoding: str
    sample_rate: int
    audio_offset: int
    next_seq: int
    resume_window_s: float


@dataclass(frozen=True, slots=True)
class Partial:
    """Words of an open segment; `stable` leading characters of `text` will not change within this seq."""

    text: str
    language: str
    seq: int
    start: float
    end: float
    stable: int


@dataclass(frozen=True, slots=True)
class Ack:
    """Everything before `audio_offset` is in a stored final or is known silence."""

    audio_offset: int


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Speech was detected; `at` is seconds of audio."""

    at: float


@dataclass(frozen=True, slots=True)
class SpeechEnded:
    """Speech ended at `at`, and the silence after it was long enough for an endpoint."""

    at: float


@dataclass(frozen=True, slots=True)
class Finalized:
    """Answers a finalize, after the final that it caused."""

    id: str | None
    audio_offset: int


@dataclass(frozen=True, slots=True)
class Error:
    """Something is wrong; `code` is a close code where it is fatal, else the nearest one."""

    code: int
    message: str
    recoverable: bool
    retry_after_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """Answers the end of the audio."""

    audio_offset: int
    segments: int
    audio_seconds: float


Message = Opened | Partial | Final | Ack | SpeechStarted | SpeechEnded | Finalized | Error | Done
