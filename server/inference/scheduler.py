"""What is to be decoded next.

No I/O, no clock and no asyncio here: `service` asks for the next piece of work whenever a model has room, and says
what became of it. Finals come before partials. Among finals the oldest goes first, except that a source with many of
them waiting takes turns with the others; among partials the one whose source has waited longest.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from typing import Protocol

from server.session.commands import Decode
from server.session.segment import Hypothesis

log = logging.getLogger(__name__)

_orders = count()


class PartialSource(Protocol):
    """Whoever wants words: a live session. Compared by identity."""

    @property
    def language(self) -> str:
        """The language that it speaks at the moment."""

    def take_partial(self) -> Decode | None:
        """The newest window, asked for at the moment of sending; None if no partial is wanted any more."""

    def on_hypothesis(self, job: int, hypothesis: Hypothesis) -> None:
        """The answer to the decode with this number."""

    def on_decode_failed(self, job: int, reason: str) -> None:
        """There will be no answer to the decode with this number."""


class State(Enum):
    """Where a ticket is."""

    WAITING = "waiting"
    SENT = "sent"
    OVER = "over"


@dataclass(slots=True, eq=False)
class Ticket:
    """One window to be decoded.

    Attributes:
        source: who gets the answer.
        model: which model gets the window.
        is_final: it must be answered; else it is a partial, whose window is taken when it is sent.
        created: when it was asked for.
        rank: the lower, the earlier.
        command: the window; None for a partial that waits, and for what is over.
        tries: how often it has been sent.
        errors: how often the model itself has answered with an error.
        lates: how often its time has run out.
        avoid: address of the Triton that failed last.
        down_before: seconds that the model had been out of reach, in all, when this was created.
    """

    source: PartialSource
    model: str
    is_final: bool
    created: float
    rank: float
    command: Decode | None = None
    state: State = State.WAITING
    tries: int = 0
    errors: int = 0
    lates: int = 0
    avoid: str = ""
    down_before: float = 0.0
    order: int = 0
    """Among equal ranks: who stood in line first."""
    has_turn: bool = False
    """It is its source's first in the line of finals, and others may wait behind it."""

    @property
    def job(self) -> int:
        """The number that its answer goes by."""
        assert self.command is not None
        return self.command.job


class _Line:
    """Tickets by rank; among equals the one that was added first."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Ticket]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Ticket]:
        return (ticket for _, _, ticket in self._entries)

    @property
    def first(self) -> Ticket | None:
        return self._entries[0][2] if self._entries else None

    @property
    def first_rank(self) -> float | None:
        return self._entries[0][0] if self._entries else None

    def add(self, ticket: Ticket) -> None:
        ticket.order = next(_orders)
        insort(self._entries, (ticket.rank, ticket.order, ticket))

    def remove(self, ticket: Ticket) -> bool:
        index = bisect_left(self._entries, (ticket.rank, ticket.order))
        if index < len(self._entries) and self._entries[index][2] is ticket:
            del self._entries[index]
            return True
        return False

    def pop(self) -> Ticket:
        return self._entries.pop(0)[2]


class _Lane:
    """All that waits for one model."""

    def __init__(self) -> None:
        self.finals = _Line()
        self.behind: dict[PartialSource, dict[Ticket, None]] = {}
        """Finals whose source has one in `finals` already."""
        self.pausing = _Line()
        """Finals that failed and are tried again later; ranked by when."""
        self.partials = _Line()
        self.sent: set[Ticket] = set()

    @property
    def waiting_finals(self) -> int:
        return len(self.finals) + len(self.pausing) + sum(map(len, self.behind.values()))

    def iter_waiting_finals(self) -> Iterable[Ticket]:
        yield from self.finals
        yield from self.pausing
        for tickets in self.behind.values():
            yield from tickets

    def add_final(self, ticket: Ticket) -> None:
        if ticket.source in self.behind:
            self.behind[ticket.source][ticket] = None
        else:
            self.behind[ticket.source] = {}
            ticket.has_turn = True
            self.finals.add(ticket)

    def remove_final(self, ticket: Ticket) -> None:
        if ticket.has_turn:
            self.finals.remove(ticket)
            self.pass_turn(ticket, ticket.rank)
        elif not (self.finals.remove(ticket) or self.pausing.remove(ticket)):
            self.behind.get(ticket.source, {}).pop(ticket, None)

    def pass_turn(self, ticket: Ticket, now: float) -> None:
        """The source's next final takes the place of `ticket`, behind those of other sources that wait since before
        `now`."""
        ticket.has_turn = False
        tickets = self.behind[ticket.source]
        if not tickets:
            del self.behind[ticket.source]
            return
        following = next(iter(tickets))
        del tickets[following]
        following.rank = max(following.created, now)
        following.has_turn = True
        self.finals.add(following)

    def ripen(self, now: float) -> None:
        """Puts finals whose pause is over back into the line, at the place that their age gives them."""
        while (ripe := self.pausing.first_rank) is not None and ripe <= now:
            ticket = self.pausing.pop()
            ticket.rank = ticket.created
            self.finals.add(ticket)


@dataclass(slots=True)
class _Account:
    """All that one source has asked for."""

    finals: dict[int, Ticket] = field(default_factory=dict)
    partial: Ticket | None = None
    wanted: tuple[str, float, float, float] | None = None
    """What `want_partial` was told of a partial that was wanted while one was under way."""

    @property
    def is_empty(self) -> bool:
        return not self.finals and self.partial is None


class Scheduler:
    """Ranks the work of every model. Methods that end work under way return its tickets: their calls are to be
    cancelled."""

    def __init__(self, models: Iterable[str]) -> None:
        self._lanes = {model: _Lane() for model in models}
        self._accounts: dict[PartialSource, _Account] = {}

    def want_partial(
        self, source: PartialSource, model: str, since: float, now: float, down_before: float = 0.0
    ) -> None:
        """A source wants a partial; where it has waited for one already, that one gets the new rank."""
        account = self._accounts.setdefault(source, _Account())
        partial = account.partial
        if partial is not None and (partial.state is State.SENT or partial.command is not None):
            account.wanted = (model, since, now, down_before)
            return
        if partial is not None:
            self._lanes[partial.model].partials.remove(partial)
        ticket = Ticket(source, model, is_final=False, created=now, rank=since, down_before=down_before)
        account.partial = ticket
        self._lanes[model].partials.add(ticket)

    def drop_partial(self, source: PartialSource) -> Ticket | None:
        """Forgets the partial of a source."""
        account = self._accounts.get(source)
        if account is None:
            return None
        account.wanted = None
        return self._drop(account.partial) if account.partial is not None else None

    def decode(self, source: PartialSource, model: str, command: Decode, now: float, down_before: float = 0.0) -> None:
        """A source wants a final; a partial of its that waits is forgotten.

        Raises:
            ValueError: it has a decode with this number already.
        """
        known = self._accounts.get(source)
        if known is not None and command.job in known.finals:
            raise ValueError(f"job {command.job} is under way already")
        if known is not None and known.partial is not None and known.partial.state is State.WAITING:
            self.drop_partial(source)
        account = self._accounts.setdefault(source, _Account())
        ticket = Ticket(source, model, is_final=True, created=now, rank=now, command=command, down_before=down_before)
        account.finals[command.job] = ticket
        self._lanes[model].add_final(ticket)

    def cancel(self, source: PartialSource, job: int) -> Ticket | None:
        """Forgets the decode with this number, final or partial; does nothing where there is none."""
        account = self._accounts.get(source)
        if account is None:
            return None
        ticket = account.finals.get(job)
        partial = account.partial
        if ticket is None and partial is not None and partial.command is not None and partial.command.job == job:
            ticket = partial
        return self._drop(ticket) if ticket is not None else None

    def forget(self, source: PartialSource) -> list[Ticket]:
        """Forgets all that a source has asked for."""
        account = self._accounts.get(source)
        if account is None:
            return []
        account.wanted = None
        tickets = [*account.finals.values(), *([account.partial] if account.partial else [])]
        return [sent for ticket in tickets if (sent := self._drop(ticket)) is not None]

    def forget_all(self) -> list[Ticket]:
        """Forgets everything."""
        return [ticket for source in list(self._accounts) for ticket in self.forget(source)]

    def next(self, model: str, now: float) -> Ticket | None:
        """The window that `model` should get next, taken out of the line; None if nothing waits for it."""
        lane = self._lanes[model]
        lane.ripen(now)
        if len(lane.finals):
            ticket = lane.finals.pop()
            if ticket.has_turn:
                lane.pass_turn(ticket, now)
            return self._send(ticket)
        while len(lane.partials):
            ticket = self._send(lane.partials.pop())
            if ticket.command is not None or self._take(ticket):
                return ticket
        return None

    def reroute(self, ticket: Ticket, model: str, down_before: float = 0.0) -> None:
        """Puts a partial that was to be sent into the line of another model: its window's language is not the one that
        was announced."""
        self._lanes[ticket.model].sent.discard(ticket)
        ticket.model, ticket.state, ticket.down_before = model, State.WAITING, down_before
        self._lanes[model].partials.add(ticket)

    def retry(self, ticket: Ticket, at: float) -> None:
        """Puts a final that was sent back into the line, to be sent again not before `at`."""
        lane = self._lanes[ticket.model]
        lane.sent.discard(ticket)
        ticket.state, ticket.rank = State.WAITING, at
        lane.pausing.add(ticket)

    def finish(self, ticket: Ticket) -> None:
        """A ticket has been answered, or has failed for good."""
        self._drop(ticket)

    def expired(self, model: str, before: float) -> list[Ticket]:
        """Finals that wait, were asked for before a point in time, and perhaps should fail."""
        return [ticket for ticket in self._lanes[model].iter_waiting_finals() if ticket.created <= before]

    def next_retry(self, model: str) -> float | None:
        """When the next pause ends."""
        return self._lanes[model].pausing.first_rank

    def waiting_finals(self, model: str) -> int:
        """How many finals wait."""
        return self._lanes[model].waiting_finals

    def waiting_partials(self, model: str) -> int:
        """How many partials wait."""
        return len(self._lanes[model].partials)

    def sent(self, model: str) -> int:
        """How many windows are with the model and still wanted."""
        return len(self._lanes[model].sent)

    def first_partials(self) -> list[Ticket]:
        """Of each model, the partial that has waited longest."""
        return [first for lane in self._lanes.values() if (first := lane.partials.first) is not None]

    def oldest_final(self) -> float | None:
        """When the oldest final that has no answer yet was asked for."""
        created = [ticket.created for account in self._accounts.values() for ticket in account.finals.values()]
        return min(created, default=None)

    @property
    def is_empty(self) -> bool:
        """Nothing waits and nothing is under way."""
        return not self._accounts

    def _take(self, ticket: Ticket) -> bool:
        """Takes the newest window of the ticket's source; False if there is none."""
        command = None
        try:
            command = ticket.source.take_partial()
        except Exception:
            log.exception("a source failed to give its window")
        if ticket.state is State.OVER:
            return False
        if command is None:
            # What it wanted meanwhile would be asked for at once, and perhaps without end.
            self._accounts[ticket.source].wanted = None
            self._drop(ticket)
        ticket.command = command
        return command is not None

    def _send(self, ticket: Ticket) -> Ticket:
        ticket.state = State.SENT
        ticket.tries += 1
        self._lanes[ticket.model].sent.add(ticket)
        return ticket

    def _drop(self, ticket: Ticket) -> Ticket | None:
        """Ends a ticket; returns it if it was under way."""
        if ticket.state is State.OVER:
            return None
        was_sent = ticket.state is State.SENT
        lane = self._lanes[ticket.model]
        account = self._accounts[ticket.source]
        if was_sent:
            lane.sent.discard(ticket)
        elif ticket.is_final:
            lane.remove_final(ticket)
        else:
            lane.partials.remove(ticket)
        ticket.state = State.OVER
        if ticket.is_final:
            del account.finals[ticket.job]
        else:
            account.partial = None
        ticket.command = None
        if not ticket.is_final and account.wanted is not None:
            wanted, account.wanted = account.wanted, None
            self.want_partial(ticket.source, *wanted)
        if account.is_empty:
            del self._accounts[ticket.source]
        return ticket if was_sent else None
