"""What a session tells its user: frozen dataclasses, one for each message of the protocol and three local ones.

Offsets (`audio_offset`) are samples at the session's input rate, counted from its first sample. Times (`start`,
`end`, `at`) are seconds of audio on the same clock. Neither restarts when the connection is made again.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SessionStarted:
    """The server accepted the session; always the first event."""

    session_id: str
    language: str
    encoding: str
    sample_rate: int
    audio_offset: int
    next_seq: int
    resume_window_s: float
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Partial:
    """What the open segment seems to say so far; the first `stable` characters will not change any more."""

    text: str
    seq: int
    start: float
    end: float
    stable: int
    language: str

    @property
    def stable_text(self) -> str:
        """The part of the text that stays."""
        return self.text[: self.stable]

    @property
    def unstable_text(self) -> str:
        """The part of the text that may still change."""
        return self.text[self.stable :]


@dataclass(frozen=True, slots=True)
class Final:
    """What a segment said. It never changes, and each `seq` is delivered exactly once."""

    text: str
    seq: int
    start: float
    end: float
    confidence: float
    punctuated: bool
    language: str


@dataclass(frozen=True, slots=True)
class Ack:
    """Everything before `audio_offset` is in a stored final or is known silence."""

    audio_offset: int


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Speech began at `at` seconds."""

    at: float


@dataclass(frozen=True, slots=True)
class SpeechEnded:
    """Speech ended at `at` seconds."""

    at: float


@dataclass(frozen=True, slots=True)
class Finalized:
    """The answer to `finalize`: all that was said before `audio_offset` has been delivered in finals."""

    id: str
    audio_offset: int


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """A complaint of the server. After a recoverable one the session goes on as it was."""

    code: int | str
    message: str
    recoverable: bool
    retry_after_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """The answer to `end`; always the last event."""

    audio_offset: int
    segments: int
    audio_seconds: float


@dataclass(frozen=True, slots=True)
class Reconnecting:
    """Local: the connection was lost; attempt number `attempt` follows in `delay_s` seconds. Nothing is lost."""

    attempt: int
    delay_s: float
    cause: str


@dataclass(frozen=True, slots=True)
class Reconnected:
    """Local: the session goes on over a new connection.

    `resent_samples` are being sent again; `gap_samples` is not 0 only where the server wants audio that it had
    acknowledged before, which the client no longer has.
    """

    attempts: int
    audio_offset: int
    resent_samples: int
    gap_samples: int = 0


Event = (
    SessionStarted
    | Partial
    | Final
    | Ack
    | SpeechStarted
    | SpeechEnded
    | Finalized
    | ErrorEvent
    | Done
    | Reconnecting
    | Reconnected
)
