"""What a session is asked for and how far the client goes to keep it."""

from __future__ import annotations

from dataclasses import dataclass

SAMPLE_BYTES = {"pcm_s16le": 2, "pcm_f32le": 4, "mulaw": 1, "alaw": 1}
"""Bytes of one sample in each encoding of the protocol."""

MIN_RATE, MAX_RATE = 8000, 48000


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """The fields of `start`, checked here so that a mistake is an exception at once and not a closed connection."""

    language: str | None = None
    encoding: str = "pcm_s16le"
    sample_rate: int = 16000
    partials: bool = True
    punctuate: bool = True
    endpoint_silence_ms: int | None = None
    session_label: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError on what the server would refuse."""
        if self.encoding not in SAMPLE_BYTES:
            raise ValueError(f"encoding {self.encoding!r} is none of {', '.join(SAMPLE_BYTES)}")
        if not MIN_RATE <= self.sample_rate <= MAX_RATE:
            raise ValueError(f"sample_rate {self.sample_rate} is outside {MIN_RATE} to {MAX_RATE}: resample first")
        if self.endpoint_silence_ms is not None and not 200 <= self.endpoint_silence_ms <= 3000:
            raise ValueError(f"endpoint_silence_ms {self.endpoint_silence_ms} is outside 200 to 3000")

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample."""
        return SAMPLE_BYTES[self.encoding]


@dataclass(frozen=True, slots=True)
class ResumePolicy:
    """How the client keeps a session alive. All times are seconds.

    The wait before attempt n is drawn from 0 to min(`backoff_cap_s`, `backoff_base_s` * 2**n) ("full jitter", Brooker,
    "Exponential Backoff and Jitter", 2015), on top of what the server asked for by `retry_after_ms` or `Retry-After`.
    """

    backoff_base_s: float = 0.25
    backoff_cap_s: float = 8.0
    connect_timeout_s: float = 15.0
    """Limit on opening the session, all attempts together."""
    attempt_timeout_s: float = 10.0
    """Limit on one attempt, from the TCP connection to the `session` message."""
    reconnect_timeout_s: float | None = None
    """Limit on coming back after a break; None takes the session's own resume window."""
    dead_after_s: float = 15.0
    """A connection on which nothing was heard for so long, pongs included, is given up and made again."""
    ping_interval_s: float = 5.0
    keepalive_interval_s: float = 5.0
    """After so long without a frame of its own the client says that it is still here."""
    max_unacknowledged_s: float = 120.0
    """Seconds of audio kept for a resend; `send` waits when they are full."""
    send_timeout_s: float = 60.0
    """How long `send` waits for room before it raises BackpressureError."""
    max_frame_bytes: int = 16384
