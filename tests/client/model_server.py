"""A server of `/stream` in its simplest form, for tests of the client: no speech, no I/O, no clock.

A sample of value 0 is silence, any other is a letter. A segment opens at a letter and closes after three silent
samples, at its length limit, at `finalize` or at `end`; its text is the language it opened in and its letters. Decoding
takes a call of `work()`, so finals may come while the client resends. It remembers between connections what the
protocol asks for and no more: controls that it heard after the last acknowledged sample are lost in a restart, while
the language that it stores is the newest one heard, even where that one belongs to later audio.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

SILENCE_ENDS = 3
SILENCE_ACKS = 5
SEGMENT_LIMIT = 12
SAMPLE_BYTES = {"pcm_s16le": 2, "pcm_f32le": 4, "mulaw": 1, "alaw": 1}


@dataclass(frozen=True)
class Close:
    """The server closes the connection."""

    code: int
    reason: str = ""


@dataclass(frozen=True)
class Stored:
    """What survives the server."""

    encoding: str
    sample_rate: int
    language: str
    acked: int = 0
    finals: tuple[dict[str, Any], ...] = ()


@dataclass
class Live:
    """What does not."""

    language: str
    received: int
    letters: list[str] = field(default_factory=list)
    opened_in: str = ""
    started: int = 0
    silence: int = 0
    owed: deque[tuple[str, Any]] = field(default_factory=deque)
    connection: Connection | None = None


class ModelServer:
    """All sessions of a server and its store."""

    def __init__(self, default_language: str = "en") -> None:
        self.default_language = default_language
        self.store: dict[str, Stored] = {}
        self.live: dict[str, Live] = {}
        self.resume_window_s = 60.0

    def connect(self) -> Connection:
        return Connection(self)

    def restart(self) -> None:
        """Lose all that is not stored."""
        self.live.clear()

    def work(self) -> bool:
        """Decode the oldest thing owed in any session; False when nothing is owed."""
        for token, live in list(self.live.items()):
            if live.owed:
                self._settle(token, live, *live.owed.popleft())
                return True
        return False

    def _settle(self, token: str, live: Live, kind: str, value: Any) -> None:
        stored = self.store[token]
        rate = stored.sample_rate
        if kind == "segment":
            language, text, start, end, acked = value
            final = {
                "type": "final",
                "text": text,
                "is_final": True,
                "language": language,
                "seq": len(stored.finals),
                "start": start / rate,
                "end": end / rate,
                "confidence": 0.9,
                "punctuated": True,
            }
            self.store[token] = replace(stored, finals=(*stored.finals, final), acked=acked, language=live.language)
            self._tell(live, final, {"type": "ack", "audio_offset": acked})
        elif kind == "ack":
            self.store[token] = replace(stored, acked=max(stored.acked, value), language=live.language)
            self._tell(live, {"type": "ack", "audio_offset": value})
        elif kind == "finalized":
            self._tell(live, {"type": "finalized", "id": value[0], "audio_offset": value[1]})
        else:
            del self.store[token], self.live[token]
            done = {"audio_offset": live.received, "segments": len(stored.finals)}
            self._tell(live, {"type": "done", "audio_seconds": live.received / rate, **done})
            if live.connection:
                live.connection.close(1000)

    def _tell(self, live: Live, *messages: dict[str, Any]) -> None:
        if live.connection:
            for message in messages:
                live.connection.tell(message)


class Connection:
    """One connection to the model server; `outbox` holds what it sends."""

    def __init__(self, server: ModelServer) -> None:
        self.server = server
        self.outbox: deque[str | Close] = deque()
        self.token: str | None = None
        self.closed = False
        self._carry = b""
        self._skip = 0
        self._ended = False

    def receive(self, frame: str | bytes) -> None:
        """Take one frame from the client."""
        if self.closed or self._ended:
            return
        if isinstance(frame, bytes):
            if self.token is None:
                self._start({})
            self._audio(frame)
            return
        message = json.loads(frame)
        kind = message.get("type")
        if self.token is None:
            if kind == "resume":
                self._resume(message)
                return
            self._start(message)
            if kind in ("start", None):
                return
        live = self._live
        if kind is None and "language" in message:
            live.language = message["language"]
        elif kind == "finalize":
            self._close_segment()
            live.owed.append(("finalized", (message["id"], live.received)))
        elif kind == "end":
            self._close_segment()
            live.owed.extend((("ack", live.received), ("done", None)))
            self._ended = True
        elif kind != "keepalive":
            self.close(4000, f"type: {kind!r}")

    def lose(self) -> None:
        """The network lost the connection; the session waits."""
        self.closed = True
        if self.token in self.server.live and self._live.connection is self:
            self._live.connection = None

    def close(self, code: int, reason: str = "", *, retry_after_ms: int | None = None) -> None:
        """Close from the server's side, with the error message that the protocol asks for."""
        if code in (1008, 1011, 1013) or code >= 4000:
            error: dict[str, Any] = {"type": "error", "code": code, "message": reason, "recoverable": code < 4000}
            if retry_after_ms is not None:
                error["retry_after_ms"] = retry_after_ms
            self.tell(error)
        self.outbox.append(Close(code, reason))
        self.lose()

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message."""
        if not self.closed:
            self.outbox.append(json.dumps(message))

    @property
    def _live(self) -> Live:
        assert self.token is not None
        return self.server.live[self.token]

    def _start(self, message: dict[str, Any]) -> None:
        self.token = f"token-{len(self.server.store)}-{id(self)}"
        stored = Stored(
            encoding=message.get("encoding", "pcm_s16le"),
            sample_rate=message.get("sample_rate", 16000),
            language=message.get("language", self.server.default_language),
        )
        self.server.store[self.token] = stored
        self.server.live[self.token] = Live(stored.language, 0, connection=self)
        self._greet(resumed=False)

    def _resume(self, message: dict[str, Any]) -> None:
        token = message["token"]
        if token not in self.server.store:
            self.close(4004, "no such session")
            return
        self.token = token
        stored = self.server.store[token]
        live = self.server.live.setdefault(token, Live(stored.language, stored.acked))
        if live.connection is not None:
            live.connection.close(4103, "taken over")
        live.connection = self
        assert message["from_offset"] <= live.received, "the client dropped audio that was not acknowledged"
        self._skip = live.received - message["from_offset"]
        self._greet(resumed=True)
        for final in stored.finals[message["last_seq"] + 1 :]:
            self.tell(final)

    def _greet(self, *, resumed: bool) -> None:
        assert self.token is not None
        stored = self.server.store[self.token]
        self.tell(
            {
                "type": "session",
                "session_id": "s1",
                "token": self.token,
                "resumed": resumed,
                "language": self._live.language,
                "encoding": stored.encoding,
                "sample_rate": stored.sample_rate,
                "audio_offset": self._live.received,
                "next_seq": len(stored.finals),
                "resume_window_s": self.server.resume_window_s,
            }
        )

    def _audio(self, frame: bytes) -> None:
        assert self.token is not None
        width = SAMPLE_BYTES[self.server.store[self.token].encoding]
        data = self._carry + frame
        whole = len(data) - len(data) % width
        self._carry = data[whole:]
        for at in range(0, whole, width):
            if self._skip:
                self._skip -= 1
            else:
                self._sample(int.from_bytes(data[at : at + width], "little"))

    def _sample(self, value: int) -> None:
        live = self._live
        live.received += 1
        if value:
            if not live.letters:
                live.opened_in, live.started = live.language, live.received - 1
                self.tell({"type": "speech_started", "at": live.started / 16000})
            live.letters.append(f"{value:x}")
            live.silence = 0
            self._partial()
        else:
            live.silence += 1
        if live.letters and (live.silence == SILENCE_ENDS or len(live.letters) == SEGMENT_LIMIT):
            self._close_segment()
        elif not live.letters and live.silence == SILENCE_ACKS:
            live.silence = 0
            live.owed.append(("ack", live.received))

    def _partial(self) -> None:
        live = self._live
        assert self.token is not None
        if any(kind == "segment" for kind, _ in live.owed):
            return
        rate = self.server.store[self.token].sample_rate
        self.tell(
            {
                "type": "partial",
                "text": " ".join(live.letters),
                "is_final": False,
                "language": live.opened_in,
                "seq": len(self.server.store[self.token].finals),
                "start": live.started / rate,
                "end": live.received / rate,
                "stable": 0,
            }
        )

    def _close_segment(self) -> None:
        live = self._live
        live.silence = 0
        if live.letters:
            text = f"{live.opened_in}: {' '.join(live.letters)}"
            live.owed.append(("segment", (live.opened_in, text, live.started, live.received, live.received)))
            live.letters = []
