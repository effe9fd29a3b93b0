"""What can go wrong for good. What can be mended by a reconnect never surfaces as an exception."""

from __future__ import annotations


class StarlingError(Exception):
    """The base of all errors of this library."""


class ConnectError(StarlingError):
    """The session could not be opened.

    `status` is the HTTP status of a refusal (401, 403, 404, 426, 503), None where no server answered.
    `retry_after_s` is what the server asked for, if it did.
    """

    def __init__(self, message: str, *, status: int | None = None, retry_after_s: float | None = None) -> None:
        """Keep the refusal's status and its `Retry-After` beside the text."""
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


class SessionError(StarlingError):
    """The server ended the session for good; `code` is the WebSocket close code."""

    def __init__(self, message: str, *, code: int) -> None:
        """Keep the close code beside the text."""
        super().__init__(message)
        self.code = code


class SessionLostError(StarlingError):
    """No connection could be made within the reconnect limit. Finals already delivered stay valid."""


class ProtocolError(StarlingError):
    """The server sent something that the protocol does not allow."""


class BackpressureError(StarlingError):
    """The server did not take or acknowledge audio for as long as `send` was willing to wait."""


class SessionClosedError(StarlingError):
    """The session was already ended or closed when it was used."""


class MicrophoneError(StarlingError):
    """The microphone cannot be used; the text says what to install or change."""
