"""What follows when a connection fails: which failures are for good, and how long to wait after the others."""

from __future__ import annotations

import random
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from starling_client.errors import StarlingError
from starling_client.events import Done
from starling_client.settings import ResumePolicy

RESUMABLE_CLOSES = frozenset({1001, 1005, 1006, 1011, 1012, 1013, 1014, 4031, 4104})
"""Close codes after which the session is still there: the server drains, broke, was cut off, or gave up waiting."""

TAKEN_OVER = 4103

FATAL_CLOSES = {
    1002: "the server found a broken WebSocket frame",
    1003: "the server does not take this kind of frame",
    1007: "the server found text that is not UTF-8",
    1008: "the key was revoked or its limits are passed",
    1009: "a frame was over the server's limit; lower max_frame_bytes",
    1010: "the server lacks a WebSocket extension",
    4000: "the server refused a message",
    4004: "the server does not know this session (any more)",
    4008: "the session's resume window has passed",
    TAKEN_OVER: "another connection took the session over",
}
"""Close codes after which there is nothing to resume, and what they mean."""

RETRYABLE_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP refusals that may pass: the server is full or draining, or a proxy has lost it."""

FATAL_STATUSES = {
    401: "the server wants a valid key: pass api_key, or set STARLING_API_KEY for the command line",
    403: "the server does not allow this origin or key",
    404: "the server has no such path; live sessions are at /stream",
    426: "the server did not see a WebSocket request; is a proxy between that drops the Upgrade header?",
}
"""HTTP refusals that another try would meet again, and what to do."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again after `delay_s`."""

    delay_s: float
    attempt: int
    cause: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The session came to its regular end. `done` stands for the server's own where that was lost on the way."""

    done: Done | None


@dataclass(frozen=True, slots=True)
class Failed:
    """The session is over for good."""

    error: StarlingError


Verdict = Retry | Finished | Failed


class Backoff:
    """Exponential backoff with full jitter."""

    def __init__(self, policy: ResumePolicy, rng: random.Random | None = None) -> None:
        """Draw from `rng`, by default from one that is seeded by the system."""
        self._policy = policy
        self._rng = rng or random.Random()
        self.attempts = 0

    def next_delay(self, retry_after_s: float | None = None) -> float:
        """Count an attempt and return the seconds to wait before it, at least `retry_after_s`."""
        ceiling = min(self._policy.backoff_cap_s, self._policy.backoff_base_s * 2 ** min(self.attempts, 32))
        self.attempts += 1
        return (retry_after_s or 0.0) + self._rng.uniform(0.0, ceiling)

    def reset(self) -> None:
        """Start from the shortest wait again."""
        self.attempts = 0


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, which may be a number or an HTTP date.

    `now` is the wall clock in seconds since the epoch. What cannot be read counts as absent.
    """
    if value is None:
        return None
    try:
        return max(0.0, float(int(value)))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except ValueError:
        return None
