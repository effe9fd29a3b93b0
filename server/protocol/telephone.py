"""`/ws/transcribe/{session_id}`: G.711 from a telephone in, words out, and nothing else.

Binary frames are audio at 8 kHz, mu-law unless the query says ``encoding=alaw``. What comes back is
``{"type": "partial" or "final", "text": ..., "seq": ...}``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote

import orjson

from server.protocol.stream import MAX_OFFSET, InvalidMessageError, resolve_language
from server.session.messages import Message, Partial
from session_store.base import Final

PREFIX = "/ws/transcribe/"
SAMPLE_RATE = 8000
MAX_FRAME_S = 10.0
"""A frame longer than this is no telephone's."""

_SEQ = re.compile(r"-?[0-9]{1,18}")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~:-]{0,119}")


@dataclass(frozen=True, slots=True)
class Call:
    """What the path and its query ask for.

    Attributes:
        session_id: chosen by the client.
        encoding: ``mulaw`` or ``alaw``.
        language: None for the server's default.
        after: finals with a higher seq are sent again at the beginning; None for none.
    """

    session_id: str
    encoding: str = "mulaw"
    language: str | None = None
    after: int | None = None


def parse(target: str, languages: frozenset[str]) -> Call:
    """Understands a request target, such as ``/ws/transcribe/call-17?encoding=alaw&after=3``.

    Raises:
        InvalidMessageError: something in it cannot be had; the text names it.
    """
    path, _, query = target.partition("?")
    session_id = unquote(path.removeprefix(PREFIX))
    if not _ID.fullmatch(session_id):
        raise InvalidMessageError("session_id: must be 1 to 120 letters, digits or any of . _ ~ : -")
    values = {name: given[-1] for name, given in parse_qs(query).items()}
    encoding = values.get("encoding", "mulaw")
    if encoding not in ("mulaw", "alaw"):
        raise InvalidMessageError("encoding: must be mulaw or alaw")
    language = None
    if "language" in values:
        language = resolve_language(values["language"], languages)
        if language is None:
            raise InvalidMessageError(f"language: choose one of {', '.join(sorted(languages))}")
    after = values.get("after")
    if after is not None and not _SEQ.fullmatch(after):
        raise InvalidMessageError("after: must be the seq of the last final you have, -1 for none")
    return Call(session_id, encoding, language, None if after is None else max(-1, min(int(after), MAX_OFFSET)))


def encode(message: Message) -> str | None:
    """The text frame for a message; None for all but partials and finals."""
    if isinstance(message, Partial | Final):
        kind = "final" if isinstance(message, Final) else "partial"
        return orjson.dumps({"type": kind, "text": message.text, "seq": message.seq}).decode()
    return None
