"""`/stream`, version 1: text frames to requests, messages to text frames. Binary frames are audio and need no parsing.

What a client sends is checked here once. A message that cannot be understood raises `InvalidMessageError`, which is
fatal; a value that cannot be had in a message that can be understood comes back as a complaint beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import orjson

from server.audio.codec import ENCODINGS
from server.session.messages import (
    Ack,
    Done,
    Error,
    Finalized,
    Message,
    Opened,
    Partial,
    SpeechEnded,
    SpeechStarted,
)
from server.session.settings import MAX_ENDPOINT_MS, MAX_SAMPLE_RATE, MIN_ENDPOINT_MS, MIN_SAMPLE_RATE
from session_store.base import Final
from session_store.codec import is_id

MAX_LABEL = 200
MAX_ID = 200
MAX_TOKEN = 200
MAX_OFFSET = 1 << 53
"""Offsets beyond this are no integers to a JavaScript client: 5,900 years at 48 kHz."""


class InvalidMessageError(ValueError):
    """The message is not part of the protocol; the text names the field and says what it should be."""


@dataclass(frozen=True, slots=True)
class Start:
    """Begins a session, or sets the language of one (`language_only`).

    `values` holds the settings the client chose, by their names in `SessionSettings`; `complaints` says which values
    could not be had and were left out.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    complaints: tuple[str, ...] = ()
    language_only: bool = False


@dataclass(frozen=True, slots=True)
class Resume:
    """Continues a session."""

    token: str
    last_seq: int
    from_offset: int

    @property
    def session_id(self) -> str:
        """The public half of the token."""
        return self.token.partition(".")[0]

    @property
    def secret(self) -> str:
        """The other half."""
        return self.token.partition(".")[2]


@dataclass(frozen=True, slots=True)
class Finalize:
    """Ends the open segment now."""

    id: str | None


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Nothing to say, still here."""


@dataclass(frozen=True, slots=True)
class End:
    """No more audio."""


Request = Start | Resume | Finalize | KeepAlive | End


def returning_session(target: str) -> str | None:
    """The session that a client wants to continue, as a request target such as ``/stream?resume=SESSION_ID`` says."""
    given = parse_qs(target.partition("?")[2]).get("resume", [""])[-1]
    return given if is_id(given) else None


def parse(text: str | bytes, languages: frozenset[str]) -> Request:
    """Understands one text frame.

    Raises:
        InvalidMessageError: the frame is not a message of this protocol.
    """
    try:
        values = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise InvalidMessageError("a text frame must be a JSON object; audio goes into binary frames") from None
    if not isinstance(values, dict):
        raise InvalidMessageError('a text frame must be a JSON object, such as {"type": "end"}')
    kind = values.get("type")
    if "type" not in values and "language" in values:
        start = _start(values, languages)
        kept = {name: value for name, value in start.values.items() if name == "language"}
        return Start(kept, start.complaints, language_only=True)
    parser = _PARSERS.get(kind) if isinstance(kind, str) else None
    if parser is None:
        known = ", ".join(_PARSERS)
        raise InvalidMessageError(f"type: must be one of {known}; got {_shown(kind)}")
    return parser(values, languages)


def _start(values: Mapping[str, Any], languages: frozenset[str]) -> Start:
    chosen: dict[str, Any] = {}
    complaints: list[str] = []
    language = _optional(values, "language", str)
    if language is not None:
        code = resolve_language(language, languages)
        served = ", ".join(sorted(languages))
        if code is None:
            complaints.append(f"language: {_shown(language)} is not served here; choose one of {served}")
        else:
            chosen["language"] = code
    chosen.update(_audio_format(values))
    for name in ("partials", "punctuate"):
        flag = _optional(values, name, bool)
        if flag is not None:
            chosen[name] = flag
    silence = _optional(values, "endpoint_silence_ms", int)
    if silence is not None:
        if MIN_ENDPOINT_MS <= silence <= MAX_ENDPOINT_MS:
            chosen["endpoint_silence_ms"] = silence
        else:
            complaints.append(f"endpoint_silence_ms: must be {MIN_ENDPOINT_MS} to {MAX_ENDPOINT_MS}; got {silence}")
    label = _optional(values, "session_label", str)
    if label is not None:
        if len(label) <= MAX_LABEL:
            chosen["session_label"] = label
        else:
            complaints.append(f"session_label: at most {MAX_LABEL} characters; got {len(label)}")
    return Start(chosen, tuple(complaints))


def _audio_format(values: Mapping[str, Any]) -> dict[str, Any]:
    """Encoding and rate: guessing either would turn speech into noise, so a wrong one is fatal."""
    chosen: dict[str, Any] = {}
    encoding = _optional(values, "encoding", str)
    if encoding is not None:
        if encoding not in ENCODINGS:
            raise InvalidMessageError(f"encoding: must be one of {', '.join(ENCODINGS)}; got {_shown(encoding)}")
        chosen["encoding"] = encoding
    rate = _optional(values, "sample_rate", int)
    if rate is not None:
        if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
            raise InvalidMessageError(f"sample_rate: must be {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz; got {rate}")
        chosen["sample_rate"] = rate
    return chosen


def resolve_language(language: str, languages: frozenset[str]) -> str | None:
    """The served code for what a client wrote: ``EN``, ``en-US`` and ``en_us`` all mean ``en``. None if not served."""
    code = language.strip().lower().replace("_", "-")
    if code in languages:
        return code
    base = code.split("-", 1)[0]
    return base if base in languages else None


def _resume(values: Mapping[str, Any], languages: frozenset[str]) -> Resume:
    del languages
    token = values.get("token")
    if not isinstance(token, str) or not 0 < len(token) <= MAX_TOKEN:
        raise InvalidMessageError("token: must be the text that the session message gave")
    return Resume(token, _integer(values, "last_seq", -1), _integer(values, "from_offset", 0))


def _finalize(values: Mapping[str, Any], languages: frozenset[str]) -> Finalize:
    del languages
    identifier = _optional(values, "id", str)
    if identifier is not None and len(identifier) > MAX_ID:
        raise InvalidMessageError(f"id: at most {MAX_ID} characters; got {len(identifier)}")
    return Finalize(identifier)


_PARSERS: dict[str, Callable[[Mapping[str, Any], frozenset[str]], Request]] = {
    "start": _start,
    "resume": _resume,
    "finalize": _finalize,
    "keepalive": lambda values, languages: KeepAlive(),
    "end": lambda values, languages: End(),
}


def _optional(values: Mapping[str, Any], name: str, kind: type) -> Any:
    """The field's value, None where it is absent or null."""
    value = values.get(name)
    if value is None:
        return None
    # To Python True is an integer, to a client it is not.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InvalidMessageError(f"{name}: must be {_KINDS[kind]}; got {_shown(value)}")
    return value


def _integer(values: Mapping[str, Any], name: str, least: int) -> int:
    value = values.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MAX_OFFSET:
        raise InvalidMessageError(f"{name}: must be a whole number from {least}; got {_shown(value)}")
    return value


_KINDS = {str: "text", int: "a whole number", bool: "true or false"}


def _shown(value: object) -> str:
    try:
        shown = orjson.dumps(value, default=repr).decode(errors="replace")
    except TypeError:  # nested deeper than can be written again
        shown = "a deeply nested value"
    return shown if len(shown) <= 40 else f"{shown[:40]}…"


def encode(message: Message) -> str:
    """Writes one message as the text of its frame."""
    return orjson.dumps(_ENCODERS[type(message)](message)).decode()


def _seconds(value: float) -> float:
    return round(value, 3)


def _opened(message: Opened) -> dict[str, Any]:
    return {
        "type": "session",
        "session_id": message.session_id,
        "token": message.token,
        "resumed": message.resumed,
        "language": message.language,
        "encoding": message.encoding,
        "sample_rate": message.sample_rate,
        "audio_offset": message.audio_offset,
        "next_seq": message.next_seq,
        "resume_window_s": message.resume_window_s,
    }


def _partial(message: Partial) -> dict[str, Any]:
    return {
        "type": "partial",
        "text": message.text,
        "is_final": False,
        "language": message.language,
        "seq": message.seq,
        "start": _seconds(message.start),
        "end": _seconds(message.end),
        "stable": message.stable,
    }


def _final(message: Final) -> dict[str, Any]:
    return {
        "type": "final",
        "text": message.text,
        "is_final": True,
        "language": message.language,
        "seq": message.seq,
        "start": _seconds(message.start),
        "end": _seconds(message.end),
        "confidence": round(message.confidence, 4),
        "punctuated": message.punctuated,
    }


def _error(message: Error) -> dict[str, Any]:
    values = {
        "type": "error",
        "code": message.code,
        "message": message.message,
        "recoverable": message.recoverable,
    }
    return values if message.retry_after_ms is None else {**values, "retry_after_ms": message.retry_after_ms}


def _done(message: Done) -> dict[str, Any]:
    return {
        "type": "done",
        "audio_offset": message.audio_offset,
        "segments": message.segments,
        "audio_seconds": _seconds(message.audio_seconds),
    }


_ENCODERS: dict[type, Callable[[Any], dict[str, Any]]] = {
    Opened: _opened,
    Partial: _partial,
    Final: _final,
    Ack: lambda message: {"type": "ack", "audio_offset": message.audio_offset},
    SpeechStarted: lambda message: {"type": "speech_started", "at": _seconds(message.at)},
    SpeechEnded: lambda message: {"type": "speech_ended", "at": _seconds(message.at)},
    Finalized: lambda message: {"type": "finalized", "id": message.id, "audio_offset": message.audio_offset},
    Error: _error,
    Done: _done,
}
