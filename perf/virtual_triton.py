"""A Triton in virtual time: work is ranked by the gateway's own scheduler and really decoded, and takes as long on a
clock of its own as it took a processor."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

from engines.base import Engine, EngineError, Hypothesis, Window
from server.inference.scheduler import PartialSource, Scheduler, State, Ticket
from server.session.commands import Decode
from server.session.segment import Hypothesis as Heard
from server.session.settings import RATE

MODEL = "asr"
MAX_BATCH = 16
GATHER_S = 0.001
"""From the first window sent to the batch that it is in."""


class VirtualTime:
    """A clock that jumps from event to event."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Has something done at a time."""
        heapq.heappush(self._events, (when, next(self._order), action))

    def run(self) -> None:
        """Until nothing is left to be done."""
        while self._events:
            self.now, _, action = heapq.heappop(self._events)
            action()


@dataclass(frozen=True, slots=True)
class ServerShape:
    """How Triton is set up.

    Attributes:
        instances: batches computed at once.
        hands: threads that a batch is dealt out to.
        in_flight: windows sent at once.
    """

    instances: int = 1
    hands: int = 1
    in_flight: int = 1


Answer = Hypothesis | EngineError


class Decoder:
    """An engine, and what each window took it; one that it had before, with the same draft, is not decoded again."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[tuple[bytes, bytes, bool], tuple[Answer, float]] = {}

    def decode(self, command: Decode) -> tuple[Answer, float]:
        """The answer, and the seconds of a processor that it took."""
        key = (command.audio.tobytes(), command.draft.tobytes(), command.is_partial)
        if key not in self._known:
            started = time.process_time()
            window = Window(command.audio, command.language, command.draft, command.is_partial)
            [answer] = self._engine.transcribe([window])
            self._known[key] = (answer, time.process_time() - started)
        return self._known[key]


class VirtualTriton:
    """Decodes for all streams, each window for as long as it took a processor.

    Attributes:
        batches: sizes of the batches so far.
        decode_s: seconds of a processor so far.
        window_s: seconds of audio decoded so far.
    """

    def __init__(self, decoder: Decoder, shape: ServerShape, clock: VirtualTime) -> None:
        self._decoder, self._shape, self._clock = decoder, shape, clock
        self._scheduler = Scheduler([MODEL])
        self._queue: list[Ticket] = []
        self._in_flight = self._busy = 0
        self._is_pumping = self._is_starting = False
        self.batches: list[int] = []
        self.decode_s = self.window_s = 0.0

    def want_partial(self, source: PartialSource, since: float) -> None:
        """See `Inference.want_partial`."""
        self._scheduler.want_partial(source, MODEL, since, self._clock.now)
        self._pump_soon()

    def drop_partial(self, source: PartialSource) -> None:
        """See `Inference.drop_partial`."""
        self._scheduler.drop_partial(source)

    def decode(self, source: PartialSource, command: Decode) -> None:
        """See `Inference.decode`."""
        self._scheduler.decode(source, MODEL, command, self._clock.now)
        self._pump_soon()

    def cancel(self, source: PartialSource, job: int) -> None:
        """See `Inference.cancel`."""
        self._scheduler.cancel(source, job)

    def _pump_soon(self) -> None:
        if not self._is_pumping:
            self._is_pumping = True
            self._clock.at(self._clock.now, self._pump)

    def _pump(self) -> None:
        self._is_pumping = False
        while self._in_flight < self._shape.in_flight:
            ticket = self._scheduler.next(MODEL, self._clock.now)
            if ticket is None:
                break
            self._in_flight += 1
            self._queue.append(ticket)
        if self._queue and not self._is_starting:
            self._is_starting = True
            self._clock.at(self._clock.now + GATHER_S, self._start)

    def _start(self) -> None:
        self._is_starting = False
        while self._queue and self._busy < self._shape.instances:
            batch, self._queue = self._queue[:MAX_BATCH], self._queue[MAX_BATCH:]
            live = [ticket for ticket in batch if ticket.state is State.SENT]
            self._in_flight -= len(batch) - len(live)
            if not live:
                self._pump_soon()
                continue
            self.batches.append(len(live))
            self._busy += 1
            answers = [(ticket, *self._transcribe(ticket)) for ticket in live]
            hands = [0.0] * self._shape.hands
            for cost in sorted((cost for _, _, cost in answers), reverse=True):
                hands[hands.index(min(hands))] += cost
            self._clock.at(self._clock.now + max(hands), lambda answers=answers: self._answer(answers))  # type: ignore[misc]

    def _transcribe(self, ticket: Ticket) -> tuple[Answer, float]:
        assert ticket.command is not None
        answer, cost = self._decoder.decode(ticket.command)
        self.decode_s += cost
        self.window_s += len(ticket.command.audio) / RATE
        return answer, cost

    def _answer(self, answers: list[tuple[Ticket, Answer, float]]) -> None:
        self._busy -= 1
        self._in_flight -= len(answers)
        for ticket, answer, _ in answers:
            if ticket.state is not State.SENT:
                continue
            job = ticket.job
            self._scheduler.finish(ticket)
            if isinstance(answer, EngineError):
                ticket.source.on_decode_failed(job, str(answer))
            else:
                words = answer.words
                found = Heard(answer.text, answer.tokens, answer.confidence, answer.language, words)
                ticket.source.on_hypothesis(job, found)
        self._pump_soon()
        self._start()
