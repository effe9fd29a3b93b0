"""Why connections are closed: codes and the words that go with them."""

from __future__ import annotations

from enum import IntEnum


class CloseCode(IntEnum):
    """WebSocket close codes; those from 4000 on are Starling's own."""

    NORMAL = 1000
    DRAINING = 1001
    REVOKED = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    OVERLOADED = 1013
    INVALID = 4000
    NO_SESSION = 4004
    WINDOW_PASSED = 4008
    IDLE = 4031
    TAKEN_OVER = 4103
    NOT_READING = 4104


RECOVERABLE = frozenset({CloseCode.DRAINING, CloseCode.INTERNAL, CloseCode.OVERLOADED, CloseCode.IDLE})
"""Closes after which the session can be resumed at once."""

MAX_REASON = 120
"""Bytes of a close reason; a control frame holds 123."""


class Closing(Exception):  # noqa: N818 - not an error of ours: the way a connection ends
    """Ends the connection with a code; the client is told why before."""

    def __init__(self, code: CloseCode, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_ms = retry_after_ms

    @property
    def reason(self) -> str:
        """The message, short enough for a close frame."""
        return self.message.encode()[:MAX_REASON].decode(errors="ignore")
