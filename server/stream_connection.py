"""`/stream` on one socket."""

from __future__ import annotations

from server.connection import Connection
from server.live import LiveSession
from server.protocol import stream
from server.protocol.close import CloseCode, Closing
from server.session.controls import TooManyMarksError
from server.session.messages import Error, Message
from server.session.settings import SessionSettings


class StreamConnection(Connection):
    """Speaks `/stream`."""

    protocol = "stream"

    def _encode(self, message: Message) -> str | None:
        return stream.encode(message)

    async def _read(self) -> None:
        live = await self._open(await self._receive())
        while True:
            frame = await self._receive(self._take)
            if isinstance(frame, bytes):
                self._audio(live, frame)
            else:
                self._control(live, frame)
            await live.room()

    async def _open(self, first: str | bytes) -> LiveSession:
        """Understands the first message and begins or resumes the session that it asks for."""
        request = stream.Start() if isinstance(first, bytes) else self._parse(first)
        if isinstance(request, stream.Resume):
            return self._begun(await self._registry.resume(request, self._identity, self._outbox))
        if self.must_resume:
            raise Closing(CloseCode.OVERLOADED, "the server is full: try again", retry_after_ms=5000)
        defaults = {
            "language": self._settings.default_language,
            "endpoint_silence_ms": self._settings.endpoint_silence_ms,
        }
        chosen = request.values if isinstance(request, stream.Start) else {}
        settings = SessionSettings(**{**defaults, **chosen})
        live = self._begun(await self._registry.begin(settings, self._identity, self._outbox))
        self._metrics.opened.labels(self.protocol).inc()
        if isinstance(first, bytes):
            self._audio(live, first)
        elif isinstance(request, stream.Start):
            self._complain(request)
        else:
            self._obey(live, request)
        return live

    def _control(self, live: LiveSession, text: str) -> None:
        if live.session.is_ending:
            return
        self._count_control()
        self._obey(live, self._parse(text))

    def _obey(self, live: LiveSession, request: stream.Request) -> None:
        session = live.session
        try:
            match request:
                case stream.Start(language_only=True):
                    self._complain(request)
                    if "language" in request.values:
                        live.do(session.set_language, request.values["language"])
                case stream.Start():
                    raise Closing(CloseCode.INVALID, 'type: "start" must be the first message; it came again')
                case stream.Resume():
                    raise Closing(CloseCode.INVALID, 'type: "resume" must be the first message')
                case stream.Finalize():
                    live.do(session.finalize, request.id, live.now())
                case stream.End():
                    live.do(session.end, live.now())
                case stream.KeepAlive():
                    pass
        except TooManyMarksError as error:
            self._outbox.put(Error(CloseCode.INVALID, str(error), recoverable=True, retry_after_ms=1000))

    def _parse(self, text: str) -> stream.Request:
        try:
            return stream.parse(text, self._settings.languages)
        except stream.InvalidMessageError as error:
            raise Closing(CloseCode.INVALID, str(error)) from None

    def _complain(self, request: stream.Start) -> None:
        for complaint in request.complaints:
            self._outbox.put(Error(CloseCode.INVALID, complaint, recoverable=True))
