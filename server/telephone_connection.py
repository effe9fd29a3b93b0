"""`/ws/transcribe/{session_id}` on one socket."""

from __future__ import annotations

from typing import Any

import structlog

from server.connection import Connection
from server.protocol import telephone
from server.protocol.telephone import MAX_FRAME_S, SAMPLE_RATE, Call
from server.session.messages import Message
from server.session.settings import SessionSettings

log = structlog.get_logger(__name__)


class TelephoneConnection(Connection):
    """Speaks the telephony protocol: the session is there from the first moment, a bad frame is skipped."""

    protocol = "telephone"

    def __init__(self, call: Call, *connection: Any) -> None:
        """Serves `call`; what follows is as for every connection."""
        super().__init__(*connection)
        self._call = call
        self._bad_frames = 0

    def _encode(self, message: Message) -> str | None:
        return telephone.encode(message)

    async def _read(self) -> None:
        call = self._call
        settings = SessionSettings(
            language=call.language or self._settings.default_language,
            encoding=call.encoding,
            sample_rate=SAMPLE_RATE,
            endpoint_silence_ms=self._settings.endpoint_silence_ms,
            session_label="telephone",
        )
        live = self._begun(
            await self._registry.join(call.session_id, settings, self._identity, self._outbox, after=call.after)
        )
        self._metrics.opened.labels(self.protocol).inc()
        while True:
            frame = await self._receive(self._take_good)
            if isinstance(frame, bytes) and _is_good(frame):
                self._audio(live, frame)
            else:
                self._skip(frame)
            await live.room()

    def _take_good(self, frame: bytes) -> bool:
        return _is_good(frame) and self._take(frame)

    def _skip(self, frame: str | bytes) -> None:
        """Logs a bad frame; the first of them and then ever more seldom, so that a broken client fills no disk."""
        self._bad_frames += 1
        if self._bad_frames & (self._bad_frames - 1) == 0:
            kind = "text" if isinstance(frame, str) else "audio"
            log.warning(
                "bad frame skipped", session=self._call.session_id, kind=kind, bytes=len(frame), so_far=self._bad_frames
            )


def _is_good(frame: bytes) -> bool:
    return 0 < len(frame) <= MAX_FRAME_S * SAMPLE_RATE
