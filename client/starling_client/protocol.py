"""The client's side of `/stream` without any I/O: what to send, what to tell the user, what to do after a break.

A shell carries frames between this and a socket: it calls `connection_opened`, sends what `next_frame` returns, hands
every frame that arrives to `receive`, and asks `connection_lost` or `connect_failed` what to do next. Time is an
argument (seconds on any monotonic clock), so that tests run in virtual time.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import Enum

from starling_client import messages
from starling_client.errors import (
    BackpressureError,
    ConnectError,
    ProtocolError,
    SessionClosedError,
    SessionError,
    SessionLostError,
)
from starling_client.events import (
    Ack,
    Done,
    ErrorEvent,
    Event,
    Final,
    Finalized,
    Partial,
    Reconnected,
    SessionStarted,
    SpeechEnded,
    SpeechStarted,
)
from starling_client.journal import Control, Journal
from starling_client.retry import (
    FATAL_CLOSES,
    FATAL_STATUSES,
    RESUMABLE_CLOSES,
    RETRYABLE_STATUSES,
    TAKEN_OVER,
    Backoff,
    Failed,
    Finished,
    Retry,
    Verdict,
)
from starling_client.settings import ResumePolicy, SessionSettings

MAX_CONTROLS = 1000
MAX_FAULTS = 3


class ResumeNeeded(Exception):  # noqa: N818 - a signal to the shell, never seen by a user
    """The connection cannot be trusted any more: drop it, ask `connection_lost`, resume."""


class Phase(Enum):
    """Where the session stands."""

    OFFLINE = "offline"
    OPENING = "opening"
    LIVE = "live"
    FINISHED = "finished"
    FAILED = "failed"


class SessionProtocol:
    """One session over any number of connections."""

    def __init__(
        self, settings: SessionSettings, policy: ResumePolicy, *, now: float, rng: random.Random | None = None
    ) -> None:
        """Begin a session; `now` starts the clock of `connect_timeout_s`."""
        self.settings = settings
        self.policy = policy
        self.phase = Phase.OFFLINE
        self.info: SessionStarted | None = None
        self.last_seq = -1
        self._journal = Journal(
            settings.sample_bytes,
            int(policy.max_unacknowledged_s * settings.sample_rate) * settings.sample_bytes,
        )
        self._backoff = Backoff(policy, rng)
        self._offline_since = now
        self._hello: str | None = None
        self._first_language = ""
        self._resumed = False
        self._resent_from = 0
        self._end_was_sent = False
        self._replay_until = -1
        self._last_error: ErrorEvent | None = None
        self._faults = 0
        self._strays = 0
        """Resumes that brought no session: a line, or a store behind the server, that stalled may have each of them
        take the session yet."""
        self._attempts_of_break = 0
        self._speech_at = {SpeechStarted: -1.0, SpeechEnded: -1.0}

    # What the user says.

    @property
    def room(self) -> int:
        """Bytes of audio that can be taken now."""
        return self._journal.room

    @property
    def written_samples(self) -> int:
        """Samples handed in by the user so far."""
        return self._journal.tail // self.settings.sample_bytes

    @property
    def sent_samples(self) -> int:
        """Samples that the current connection has taken."""
        return self._journal.cursor // self.settings.sample_bytes

    @property
    def acknowledged_samples(self) -> int:
        """Samples that the server will not ask for again."""
        return self._journal.acknowledged // self.settings.sample_bytes

    def write_audio(self, data: bytes | memoryview) -> int:
        """Take as much audio as there is room for; return the number of bytes taken."""
        self._check_writable()
        return self._journal.append(data)

    def finalize(self, identifier: str) -> None:
        """End the open segment after the audio written so far."""
        self._check_writable()
        self._check_controls()
        self._journal.add("finalize", identifier)

    def set_language(self, code: str) -> None:
        """Change the language from the next segment on."""
        self._check_writable()
        self._check_controls()
        self._journal.add("language", code)

    def end(self) -> None:
        """Say that no more audio comes."""
        self._check_writable()
        self._journal.add("end")

    # What the connection carries.

    def connection_opened(self) -> None:
        """A new connection is open; `next_frame` begins with `start` or `resume`."""
        self.phase = Phase.OPENING
        self._last_error = None
        if self.info is None:
            self._journal.rewind_to_start()
            self._hello = messages.start(self.settings)
        else:
            self._resent_from = self._journal.rewind()
            self._hello = messages.resume(self.info.token, last_seq=self.last_seq, from_offset=self._resent_from)

    def next_frame(self) -> str | bytes | None:
        """Return the next frame to send, None when there is nothing to send for now."""
        if self.phase is Phase.OPENING and self._hello is not None:
            hello, self._hello = self._hello, None
            return hello
        if self.phase is not Phase.LIVE:
            return None
        frame = self._journal.next_frame(self.policy.max_frame_bytes)
        self._end_was_sent |= frame == messages.END
        return frame

    def keepalive(self) -> str | None:
        """Return the frame that says "still here", None where it is not due."""
        return messages.KEEPALIVE if self.phase is Phase.LIVE else None

    def receive(self, frame: str | bytes) -> list[Event]:
        """Take a frame from the server; return the events for the user.

        Raises ResumeNeeded where a new connection can mend what is wrong, ProtocolError where it cannot.
        """
        if self.phase in (Phase.FINISHED, Phase.FAILED):
            return []
        message = messages.parse(frame)
        if message is None:
            return []
        if self.phase is Phase.OPENING and not isinstance(message, messages.SessionMessage | ErrorEvent):
            raise ProtocolError(f"the server's first message is {type(message).__name__.lower()}, not session")
        events = self._handle(message)
        if self._resumed and self.last_seq >= self._replay_until:
            events.extend(self._settle(self._journal.settled_finalizes()))
        return events

    def connection_lost(self, code: int, reason: str, now: float) -> Verdict:
        """Say what follows on a close with `code`, 1006 for a connection that ended without one."""
        if self.phase is Phase.FINISHED:
            return Finished(None)
        if self.phase is Phase.LIVE:
            self._offline_since = now
        elif self.info is not None and self._hello is None:
            self._strays += 1
        self.phase = Phase.OFFLINE
        error = self._last_error
        if error is not None and error.recoverable and error.code != code:
            error = None  # An earlier complaint, not the reason of this close.
        text = error.message if error else reason
        if not self._may_resume(code, error):
            if code == 4004 and self._nothing_is_missing():
                self.phase = Phase.FINISHED
                return Finished(self._own_done())
            return self._fail(self._fatal_close(code, text))
        retry_after = error.retry_after_ms / 1000 if error and error.retry_after_ms is not None else None
        return self._retry(f"close {code}: {text}" if text else f"close {code}", retry_after, now)

    def connect_failed(
        self, cause: str, now: float, *, status: int | None = None, retry_after_s: float | None = None
    ) -> Verdict:
        """Say what follows when no connection could be made; `status` is that of an HTTP refusal."""
        self.phase = Phase.OFFLINE
        # Where no server answers the first attempt, the address is wrong or the server is down: better said at once.
        hopeless = self.info is None if status is None else status not in RETRYABLE_STATUSES
        if hopeless:
            advice = FATAL_STATUSES.get(status or 0)
            text = f"HTTP {status}: {advice}" if advice else cause
            return self._fail(ConnectError(text, status=status, retry_after_s=retry_after_s))
        return self._retry(cause, retry_after_s, now, status)

    # Inside.

    def _handle(self, message: messages.ServerMessage) -> list[Event]:
        match message:
            case messages.SessionMessage():
                return self._on_session(message)
            case Final():
                return self._on_final(message)
            case Partial():
                return [message] if message.seq > self.last_seq else []
            case Ack():
                return self._on_ack(message)
            case SpeechStarted() | SpeechEnded():
                return self._on_speech(message)
            case Finalized():
                # Answers come in order: one that did not come before this was lost with an earlier connection.
                answered = self._journal.unanswered_until(message.id)
                return [*self._settle(answered)[:-1], message] if answered else []
            case ErrorEvent():
                self._last_error = message
                return [message]
            case Done():
                return self._on_done(message)

    def _on_session(self, message: messages.SessionMessage) -> list[Event]:
        if self.phase is not Phase.OPENING or message.resumed is not (self.info is not None):
            raise ProtocolError("the server sent a session message that was not asked for")
        self.info = message.info
        self._check_format(message.info)
        self.phase = Phase.LIVE
        self._resumed = message.resumed
        self._replay_until = message.info.next_seq - 1
        if not message.resumed:
            self._first_language = message.info.language
            return [message.info]
        self._journal.replay_controls(message.info.audio_offset, self._first_language)
        gap = max(0, self._resent_from - message.info.audio_offset)
        resent = max(0, message.info.audio_offset - self._resent_from)
        attempts, self._attempts_of_break = self._attempts_of_break, 0
        return [Reconnected(attempts, message.info.audio_offset, resent, gap)]

    def _check_format(self, info: SessionStarted) -> None:
        asked = (self.settings.encoding, self.settings.sample_rate)
        if (info.encoding, info.sample_rate) != asked:
            raise ProtocolError(f"asked for {asked[0]} at {asked[1]} Hz, got {info.encoding} at {info.sample_rate} Hz")

    def _on_final(self, final: Final) -> list[Event]:
        if final.seq <= self.last_seq:
            return []
        if final.seq > self.last_seq + 1:
            raise self._fault(f"final {final.seq} came after {self.last_seq}: one is missing")
        self.last_seq = final.seq
        self._progress()
        return [final]

    def _on_ack(self, ack: Ack) -> list[Event]:
        if ack.audio_offset > self.written_samples:
            raise ProtocolError(f"the server acknowledged sample {ack.audio_offset} of {self.written_samples}")
        if not self._journal.acknowledge(ack.audio_offset):
            return []
        self._progress()
        return [ack]

    def _on_speech(self, event: SpeechStarted | SpeechEnded) -> list[Event]:
        # Audio that is sent again is heard again; the user has been told.
        if event.at <= self._speech_at[type(event)]:
            return []
        self._speech_at[type(event)] = event.at
        return [event]

    def _on_done(self, done: Done) -> list[Event]:
        if not self._end_was_sent:
            raise ProtocolError("the server said done before the end")
        if done.segments > self.last_seq + 1:
            raise ProtocolError(f"the server counts {done.segments} segments, but {self.last_seq + 1} finals came")
        self.phase = Phase.FINISHED
        return [*self._settle(self._journal.pending_finalizes), done]

    def _settle(self, controls: Sequence[Control]) -> list[Event]:
        for control in controls:
            control.answered = True
        return [Finalized(c.value, c.position // self.settings.sample_bytes) for c in controls]

    def _progress(self) -> None:
        self._backoff.reset()
        self._faults = 0

    def _fault(self, text: str) -> Exception:
        self._faults += 1
        return ResumeNeeded(text) if self._faults < MAX_FAULTS else ProtocolError(text)

    def _may_resume(self, code: int, error: ErrorEvent | None) -> bool:
        if code in RESUMABLE_CLOSES:
            return True
        if code == TAKEN_OVER and self._strays:
            # Most likely by one of our own that came late, from which nobody reads: it is taken back, once for each.
            self._strays -= 1
            return True
        if code in FATAL_CLOSES or code == 1000:
            return False
        return error is not None and error.recoverable

    def _fatal_close(self, code: int, text: str) -> SessionError | ConnectError:
        meaning = FATAL_CLOSES.get(code, "the server closed the session")
        if code == 4004 and self._end_was_sent:
            meaning = (
                f"the connection broke at the end and the server has closed the session; what was said after "
                f"{self._journal.acknowledged / self.settings.sample_bytes / self.settings.sample_rate:.2f} s "
                f"may be missing here"
            )
        return SessionError(f"{meaning} ({code}{': ' + text if text else ''})", code=code)

    def _nothing_is_missing(self) -> bool:
        # The server deletes a session when it ends, so a `done` that was lost on the way cannot be asked for again.
        # Its finals are all here if everything was acknowledged, as an ack never overtakes its final.
        whole = self._journal.tail - self._journal.tail % self.settings.sample_bytes
        return self._end_was_sent and self._journal.acknowledged >= whole

    def _own_done(self) -> Done:
        return Done(self.written_samples, self.last_seq + 1, self.written_samples / self.settings.sample_rate)

    def _retry(self, cause: str, retry_after_s: float | None, now: float, status: int | None = None) -> Verdict:
        limit = self.policy.connect_timeout_s
        if self.info is not None:
            limit = self.policy.reconnect_timeout_s or self.info.resume_window_s
        delay = self._backoff.next_delay(retry_after_s)
        if now - self._offline_since + delay > limit:
            if self.info is None:
                return self._fail(ConnectError(cause, status=status, retry_after_s=retry_after_s))
            return self._fail(SessionLostError(f"no connection within {limit:g} s, given up (last: {cause})"))
        self._attempts_of_break += 1
        return Retry(delay, self._attempts_of_break, cause)

    def _fail(self, error: SessionError | ConnectError | SessionLostError) -> Failed:
        self.phase = Phase.FAILED
        return Failed(error)

    def _check_writable(self) -> None:
        if self._journal.ended or self.phase in (Phase.FINISHED, Phase.FAILED):
            raise SessionClosedError("the session was ended: open a new one to send more")

    def _check_controls(self) -> None:
        if self._journal.control_count >= MAX_CONTROLS:
            raise BackpressureError(f"{MAX_CONTROLS} controls wait for an answer of the server")
