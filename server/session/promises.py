"""What a session owes its client, in the order in which it is owed.

Finals, answers to `finalize`, acknowledgements and the `done` at the end come out in the order of the audio, whatever
order the decodes come back in.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from enum import Enum

from server.session.commands import Command, Decode, Finish, Punctuate, Send, Store
from server.session.controls import Controls
from server.session.messages import Ack, Done, Finalized, Message
from server.session.segment import Segment
from server.session.settings import AUTO
from server.session.text import bare, unmarked
from session_store.base import Final, SessionState

MAX_TAIL = 200
"""Characters of the last final that are kept as context for the next one's punctuation."""


class Stage(Enum):
    """How far a closed segment has come."""

    DECODING = "decoding"
    PUNCTUATING = "punctuating"
    STORING = "storing"


@dataclass(slots=True)
class OwedFinal:
    """A closed segment whose final is due."""

    segment: Segment
    audio_s: float
    waiting: Decode | None = None
    """The decode of the whole segment, while its language is not known yet."""
    stage: Stage = Stage.DECODING
    final: Final | None = None
    number: int = 0
    """The punctuation job or the store ticket that is awaited."""

    @property
    def will_come(self) -> bool | None:
        """Whether there will be a final, as a segment in which nothing was said has none; None while that is open."""
        if self.segment.promised or self.stage is not Stage.DECODING:
            return True
        if not self.segment.is_decoded:
            return None
        if self.segment.says_something:
            return True
        # Partials of it are out that are still to be taken back, under the seq that would be the next one's.
        return None if self.segment.shown else False


@dataclass(frozen=True, slots=True)
class OwedAck:
    """Silence up to an input offset, to be acknowledged."""

    audio_offset: int


@dataclass(frozen=True, slots=True)
class OwedFinalized:
    """The answer to a `finalize`."""

    id: str | None
    audio_offset: int


@dataclass(frozen=True, slots=True)
class OwedDone:
    """The answer to `end`."""

    audio_offset: int
    audio_seconds: float


Promise = OwedFinal | OwedAck | OwedFinalized | OwedDone


class Promises:
    """What is owed, and what the client and the store know because of what was kept.

    The oldest promise is kept as far as it can be, and only then the next one. Of a closed segment first the
    hypothesis is awaited, then its marks, then the store.
    """

    def __init__(self, state: SessionState, acked: int, controls: Controls, out: list[Command]) -> None:
        """Goes on from `state`, with the audio up to the input offset `acked` acknowledged; appends commands to
        `out`."""
        self._state = state
        self._controls = controls
        self._out = out
        self._owed: deque[Promise] = deque()
        self._numbers = 0
        self._acked = acked
        self._kept = acked
        """The acknowledgement that the newest final's `Store` asks to be kept: `next_seq` and the tail belong to it."""
        self.next_seq = state.next_seq
        """The seq of the next final that is to be stored."""
        self.done: Done | None = None
        """The session's last message, once it was sent."""

    # --- what is owed

    @property
    def owes(self) -> bool:
        """A final or another promise is due."""
        return bool(self._owed)

    @property
    def owes_final(self) -> bool:
        """A closed segment's final is due."""
        return any(isinstance(owed, OwedFinal) for owed in self._owed)

    @property
    def backlog_s(self) -> float:
        """Seconds of audio whose finals are due."""
        # Asked for at every frame, as `open_seq` is at every answer of voice activity, and mostly nothing is owed.
        if not self._owed:
            return 0.0
        return sum(owed.audio_s for owed in self._owed if isinstance(owed, OwedFinal))

    @property
    def answers(self) -> int:
        """How many answers to `finalize` are due."""
        return sum(isinstance(owed, OwedFinalized) for owed in self._owed)

    @property
    def open_seq(self) -> int | None:
        """The seq of the open segment's final; None while that hangs on whether one that is owed says anything.

        So partials go on while a final before them is punctuated or waits for a store that is away.
        """
        if not self._owed:
            return self.next_seq
        ahead = [owed for owed in self._owed if isinstance(owed, OwedFinal) and owed.stage is not Stage.STORING]
        if any(owed.will_come is None for owed in ahead):
            return None
        return self.next_seq + sum(owed.will_come is True for owed in ahead)

    def state(self) -> SessionState:
        """What a server must know to go on from where the newest final ends, stored or about to be."""
        acked = max(self._acked, self._kept)
        return replace(
            self._state,
            settings=self._controls.settings_before(acked + 1).to_json(),
            acked=acked,
            next_seq=self.next_seq,
            marks=self._controls.to_json(acked),
        )

    # --- events

    def owe(self, promise: Promise) -> None:
        """Promises this too, behind all others; `settle` keeps it."""
        self._owed.append(promise)

    def settle(self) -> None:
        """Keeps what can be kept, as far as the oldest promise allows."""
        while self._owed:
            owed = self._owed[0]
            if isinstance(owed, OwedFinal):
                self._decode_waiting(owed)
                if owed.stage is not Stage.DECODING or not owed.segment.is_decoded:
                    return
                if not self._begin_final(owed):
                    return
            elif isinstance(owed, OwedAck):
                self._ack(owed.audio_offset)
            elif isinstance(owed, OwedFinalized):
                self._send(Finalized(owed.id, owed.audio_offset))
            else:
                self.done = Done(owed.audio_offset, self.next_seq, owed.audio_seconds)
                self._send(self.done)
                self._out.append(Finish(owed.audio_seconds))
            self._owed.popleft()

    def punctuated(self, number: int, text: str | None) -> None:
        """Takes the answer to a `Punctuate`; None if it failed, which costs the final its marks."""
        owed = self._head_final(Stage.PUNCTUATING, number)
        if owed is None or owed.final is None:
            return
        if text is None:
            self._store(owed, replace(owed.final, text=unmarked(owed.final.text)))
        else:
            self._store(owed, replace(owed.final, text=text, punctuated=True))

    def stored(self, ticket: int) -> bool:
        """Takes the news that a `Store` is safe; true if that kept a promise."""
        owed = self._head_final(Stage.STORING, ticket)
        if owed is None or owed.final is None:
            return False
        self._owed.popleft()
        self._send(owed.final, since=owed.segment.speech_arrival)
        self._ack(owed.segment.restart)
        return True

    def store_state(self) -> None:
        """Has the state stored, as there is a mark in it that must not be lost."""
        self._out.append(Store(self._number(), self.state(), None))

    # --- finals

    def _head_final(self, stage: Stage, number: int) -> OwedFinal | None:
        owed = self._owed[0] if self._owed else None
        if isinstance(owed, OwedFinal) and owed.stage is stage and owed.number == number:
            return owed
        return None

    def _decode_waiting(self, owed: OwedFinal) -> None:
        """Decodes what had to wait for the language that the segments before it were found to be in."""
        if owed.waiting is not None:
            self._out.append(replace(owed.waiting, language=self._controls.settings.detected or AUTO))
            owed.waiting = None

    def _begin_final(self, owed: OwedFinal) -> bool:
        """Starts on the final of the oldest closed segment; true if there is none, as nothing was said."""
        segment = owed.segment
        assert segment.final is not None
        hypothesis = segment.final[1]
        said = bare(hypothesis.text)
        if said and segment.language == AUTO and hypothesis.language not in ("", AUTO):
            self._controls.detect(hypothesis.language)
        # Where something was promised as stable it cannot be taken back: an empty final says so.
        if not said and not segment.promised:
            retraction = segment.retraction(self.next_seq)
            if retraction is not None:
                self._send(retraction)
            self._ack(segment.restart)
            return True
        owed.final = Final(
            seq=self.next_seq,
            text=hypothesis.text,
            start=round(segment.start_s, 3),
            end=round(segment.end_s, 3),
            language=hypothesis.language or segment.language,
            confidence=hypothesis.confidence,
            punctuated=False,
        )
        if not self._controls.settings.punctuate or not said:
            self._store(owed, replace(owed.final, text=said))
            return False
        owed.stage, owed.number = Stage.PUNCTUATING, self._number()
        self._out.append(Punctuate(owed.number, hypothesis.text, self._state.tail, owed.final.language))
        return False

    def _store(self, owed: OwedFinal, final: Final) -> None:
        owed.final, owed.stage, owed.number = final, Stage.STORING, self._number()
        tail = f"{self._state.tail} {final.text}".strip()[-MAX_TAIL:]
        self._state = replace(self._state, tail=tail)
        self.next_seq += 1
        self._kept = owed.segment.restart
        self._out.append(Store(owed.number, self.state(), final))

    def _ack(self, offset: int) -> None:
        if offset > self._acked:
            self._controls.forget(offset)
            self._acked = offset
            self._send(Ack(offset))

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _send(self, message: Message, since: float | None = None) -> None:
        self._out.append(Send(message, since))
