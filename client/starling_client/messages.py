"""JSON text frames to typed events, and the client's controls to JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from starling_client.errors import ProtocolError
from starling_client.events import (
    Ack,
    Done,
    ErrorEvent,
    Final,
    Finalized,
    Partial,
    SessionStarted,
    SpeechEnded,
    SpeechStarted,
)
from starling_client.settings import SessionSettings


@dataclass(frozen=True, slots=True)
class SessionMessage:
    """The server's first message on every connection."""

    info: SessionStarted
    resumed: bool


ServerMessage = SessionMessage | Partial | Final | Ack | SpeechStarted | SpeechEnded | Finalized | ErrorEvent | Done

KEEPALIVE = '{"type":"keepalive"}'
END = '{"type":"end"}'


def start(settings: SessionSettings) -> str:
    """Return the `start` message; fields that are None are left to the server."""
    fields: dict[str, Any] = {
        "type": "start",
        "encoding": settings.encoding,
        "sample_rate": settings.sample_rate,
        "partials": settings.partials,
        "punctuate": settings.punctuate,
        "language": settings.language,
        "endpoint_silence_ms": settings.endpoint_silence_ms,
        "session_label": settings.session_label,
    }
    return _dump({name: value for name, value in fields.items() if value is not None})


def resume(token: str, *, last_seq: int, from_offset: int) -> str:
    """Return the `resume` message; `from_offset` is in samples."""
    return _dump({"type": "resume", "token": token, "last_seq": last_seq, "from_offset": from_offset})


def finalize(identifier: str) -> str:
    """Return the `finalize` message."""
    return _dump({"type": "finalize", "id": identifier})


def language(code: str) -> str:
    """Return the message that changes the language from the next segment on."""
    return _dump({"language": code})


def parse(frame: str | bytes) -> ServerMessage | None:
    """Return the message in a frame, None for a type that this version does not know.

    Raises ProtocolError for what is not JSON, or lacks a field, or has one of the wrong kind.
    """
    if isinstance(frame, bytes):
        raise ProtocolError("the server sent a binary frame; is this a /stream address?")
    try:
        fields = json.loads(frame)
    except (ValueError, RecursionError):
        raise ProtocolError("the server sent a message that is not JSON; is this a /stream address?") from None
    if not isinstance(fields, dict):
        raise ProtocolError("the server sent JSON that is not an object")
    try:
        return _build(fields)
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"the server's message of type {fields.get('type')!r} is malformed: {error!r}") from None


def _build(fields: dict[str, Any]) -> ServerMessage | None:
    match fields.get("type"):
        case "session":
            return SessionMessage(_session(fields), bool(fields["resumed"]))
        case "partial":
            return Partial(
                text=str(fields["text"]),
                seq=int(fields["seq"]),
                start=float(fields["start"]),
                end=float(fields["end"]),
                stable=int(fields["stable"]),
                language=str(fields["language"]),
            )
        case "final":
            return Final(
                text=str(fields["text"]),
                seq=int(fields["seq"]),
                start=float(fields["start"]),
                end=float(fields["end"]),
                confidence=float(fields["confidence"]),
                punctuated=bool(fields["punctuated"]),
                language=str(fields["language"]),
            )
        case "ack":
            return Ack(int(fields["audio_offset"]))
        case "speech_started":
            return SpeechStarted(float(fields["at"]))
        case "speech_ended":
            return SpeechEnded(float(fields["at"]))
        case "finalized":
            return Finalized(str(fields["id"]), int(fields["audio_offset"]))
        case "error":
            return _error(fields)
        case "done":
            return Done(int(fields["audio_offset"]), int(fields["segments"]), float(fields["audio_seconds"]))
        case _:
            return None


def _session(fields: dict[str, Any]) -> SessionStarted:
    return SessionStarted(
        session_id=str(fields["session_id"]),
        language=str(fields["language"]),
        encoding=str(fields["encoding"]),
        sample_rate=int(fields["sample_rate"]),
        audio_offset=int(fields["audio_offset"]),
        next_seq=int(fields["next_seq"]),
        resume_window_s=float(fields["resume_window_s"]),
        token=str(fields["token"]),
    )


def _error(fields: dict[str, Any]) -> ErrorEvent:
    code = fields["code"]
    wait = fields.get("retry_after_ms")
    return ErrorEvent(
        code=code if isinstance(code, int) else str(code),
        message=str(fields["message"]),
        recoverable=bool(fields["recoverable"]),
        retry_after_ms=None if wait is None else int(wait),
    )


def _dump(fields: dict[str, Any]) -> str:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
