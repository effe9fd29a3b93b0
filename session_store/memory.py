"""Stores that live and die with the process: for tests, and for servers that need no resume after a restart."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from session_store.base import (
    TOMBSTONE_S,
    Claimed,
    Expired,
    Final,
    SessionExistsError,
    SessionState,
    SessionSummary,
    Spare,
    StaleOwnerError,
    TooManySessionsError,
    UnknownSessionError,
)
from session_store.codec import check_hash, check_id, clean_text, dump_state, load_state, utc_day


@dataclass(slots=True)
class _Record:
    token_hash: bytes
    key_id: str
    body: bytes | None  # None once the session was ended or closed out
    fence: int
    owner: str
    deadline: float
    late_since: float | None = None  # when it was first found expired

    def renew(self, deadline: float) -> None:
        self.deadline = deadline
        self.late_since = None


class MemorySessionStore:
    """`SessionStore` in a dictionary. Times are the monotonic clock's, so a clock that jumps changes nothing.

    Args:
        clock: seconds, never going back.
        date: UNIX seconds, for the day that usage is counted by.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, date: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._date = date
        self._records: dict[str, _Record] = {}
        self._tickets: dict[bytes, tuple[str, float]] = {}
        self._usage: dict[str, tuple[int, float]] = {}
        self._next_sweep = clock() + TOMBSTONE_S / 24

    async def create(self, state: SessionState, *, owner: str, ttl_s: float, key_limit: int | None = None) -> int:
        """See `SessionStore.create`."""
        body = dump_state(state)
        now = self._clock()
        self._forget_old(now)
        old = self._records.get(state.session_id)
        fence = 1
        if old is not None:
            if old.body is not None and old.deadline > now:
                if old.owner != owner:
                    raise SessionExistsError(f"session {state.session_id} exists")
                return old.fence
            fence = old.fence + 1
        if key_limit is not None and state.key_id and self._count(state.key_id, now) >= key_limit:
            raise TooManySessionsError(f"key {state.key_id} has {key_limit} sessions")
        self._records[state.session_id] = _Record(state.token_hash, state.key_id, body, fence, owner, now + ttl_s)
        return fence

    async def peek(self, session_id: str) -> SessionState | Expired | None:
        """See `SessionStore.peek`."""
        record = self._records.get(session_id)
        if record is None:
            return None
        if record.body is None or record.deadline <= self._clock():
            return Expired(record.token_hash, record.key_id)
        return load_state(session_id, record.token_hash, record.key_id, record.body)

    async def claim(self, session_id: str, *, owner: str, ttl_s: float) -> Claimed | Expired | None:
        """See `SessionStore.claim`."""
        state = await self.peek(session_id)
        if not isinstance(state, SessionState):
            return state
        record = self._records[session_id]
        record.fence += 1
        record.owner = owner
        record.renew(self._clock() + ttl_s)
        return Claimed(state, record.fence)

    async def save(self, state: SessionState, *, fence: int, ttl_s: float) -> None:
        """See `SessionStore.save`."""
        body = dump_state(state)
        record = self._records.get(state.session_id)
        if record is None:
            record = _Record(state.token_hash, state.key_id, body, fence, "", 0.0)
            self._records[state.session_id] = record
        _check_owner(record, fence, state.session_id)
        record.fence = fence
        record.body = body
        record.token_hash = state.token_hash
        record.key_id = state.key_id
        record.renew(self._clock() + ttl_s)

    async def touch(self, session_id: str, *, fence: int, ttl_s: float) -> None:
        """See `SessionStore.touch`."""
        record = self._records.get(session_id)
        if record is None:
            raise UnknownSessionError(f"session {session_id} is not in the store")
        _check_owner(record, fence, session_id)
        record.renew(self._clock() + ttl_s)

    async def delete(self, session_id: str, *, fence: int) -> None:
        """See `SessionStore.delete`."""
        record = self._records.get(session_id)
        if record is None or (record.body is None and fence >= record.fence):
            return
        _check_owner(record, fence, session_id)
        record.body = None
        record.deadline = self._clock()

    async def expired(self, limit: int, *, grace_s: float = 0.0) -> Sequence[SessionState]:
        """See `SessionStore.expired`."""
        now = self._clock()
        due = []
        for session_id, record in self._records.items():
            if record.body is not None and record.deadline <= now:
                record.late_since = now if record.late_since is None else record.late_since
                if record.late_since + grace_s <= now:
                    due.append((record.late_since, record.deadline, session_id))
        states = []
        for _, _, session_id in sorted(due)[:limit]:
            record = self._records[session_id]
            assert record.body is not None
            states.append(load_state(session_id, record.token_hash, record.key_id, record.body))
            record.body = None
            record.fence += 1
        return states

    async def issue_ticket(self, ticket_hash: bytes, key_id: str, *, ttl_s: float) -> None:
        """See `SessionStore.issue_ticket`."""
        check_hash(ticket_hash, "ticket_hash")
        check_id(key_id, "key_id")
        now = self._clock()
        self._tickets = {known: ticket for known, ticket in self._tickets.items() if ticket[1] > now}
        self._tickets[ticket_hash] = (key_id, now + ttl_s)

    async def redeem_ticket(self, ticket_hash: bytes) -> str | None:
        """See `SessionStore.redeem_ticket`."""
        key_id, deadline = self._tickets.pop(ticket_hash, ("", 0.0))
        return key_id if key_id and deadline > self._clock() else None

    async def add_usage(self, key_id: str, seconds: float) -> float:
        """See `SessionStore.add_usage`."""
        check_id(key_id, "key_id")
        today = utc_day(self._date())
        day, total = self._usage.get(key_id, (today, 0.0))
        total = seconds if day != today else total + seconds
        self._usage[key_id] = (today, total)
        return total

    async def publish_partial(self, session_id: str, text: str, seq: int) -> None:
        """Nothing: there is no other process to see it."""

    async def publish_final(self, session_id: str, final: Final) -> None:
        """Nothing: there is no other process to see it."""

    async def ping(self) -> None:
        """Memory always answers."""

    async def close(self) -> None:
        """Forgets everything."""
        self._records.clear()
        self._tickets.clear()
        self._usage.clear()

    def _count(self, key_id: str, now: float) -> int:
        """Sessions of a key that are neither ended nor expired."""
        return sum(r.key_id == key_id and r.body is not None and r.deadline > now for r in self._records.values())

    def _forget_old(self, now: float) -> None:
        if now < self._next_sweep:
            return
        self._next_sweep = now + TOMBSTONE_S / 24
        for session_id in [key for key, record in self._records.items() if record.deadline + TOMBSTONE_S <= now]:
            del self._records[session_id]


def _check_owner(record: _Record, fence: int, session_id: str) -> None:
    if record.body is None or fence < record.fence:
        raise StaleOwnerError(f"session {session_id} has a newer owner or is over")


class MemoryTranscriptStore:
    """`TranscriptStore` in dictionaries."""

    def __init__(self) -> None:
        self._sessions: dict[str, SessionSummary] = {}
        self._owners: dict[str, str] = {}
        self._finals: dict[str, dict[int, Final]] = {}

    async def open_session(self, session_id: str, *, label: str, language: str, key_id: str) -> None:
        """See `TranscriptStore.open_session`."""
        check_id(session_id)
        check_id(key_id, "key_id", may_be_empty=True)
        if session_id not in self._sessions:
            now = time.time()
            label = clean_text(label)
            self._sessions[session_id] = SessionSummary(session_id, label, language, now, now, 0, 0.0, ended=False)
            self._owners[session_id] = key_id
            self._finals[session_id] = {}

    async def append(self, session_id: str, final: Final) -> None:
        """See `TranscriptStore.append`."""
        summary = self._known(session_id)
        finals = self._finals[session_id]
        finals.setdefault(final.seq, replace(final, text=clean_text(final.text)))
        self._sessions[session_id] = replace(
            summary,
            updated_at=time.time(),
            finals=len(finals),
            audio_seconds=max(summary.audio_seconds, final.end),
        )

    async def finals(self, session_id: str, *, after: int = -1) -> Sequence[Final]:
        """See `TranscriptStore.finals`."""
        finals = self._finals.get(session_id, {})
        return [finals[seq] for seq in sorted(finals) if seq > after]

    async def last_final(self, session_id: str) -> Final | None:
        """See `TranscriptStore.last_final`."""
        finals = self._finals.get(session_id)
        return finals[max(finals)] if finals else None

    async def end_session(self, session_id: str, *, audio_seconds: float) -> None:
        """See `TranscriptStore.end_session`."""
        summary = self._known(session_id)
        seconds = max(summary.audio_seconds, audio_seconds)
        self._sessions[session_id] = replace(summary, updated_at=time.time(), audio_seconds=seconds, ended=True)

    async def sessions(self, *, limit: int = 100, key_id: str | None = None) -> Sequence[SessionSummary]:
        """See `TranscriptStore.sessions`."""
        mine = [s for s in self._sessions.values() if key_id is None or self._owners[s.session_id] == key_id]
        return sorted(mine, key=lambda s: (-s.created_at, s.session_id))[:limit]

    async def session(self, session_id: str) -> SessionSummary | None:
        """See `TranscriptStore.session`."""
        return self._sessions.get(session_id)

    async def owner(self, session_id: str) -> str | None:
        """See `TranscriptStore.owner`."""
        return self._owners.get(session_id)

    async def delete_session(self, session_id: str) -> bool:
        """See `TranscriptStore.delete_session`."""
        self._owners.pop(session_id, None)
        self._finals.pop(session_id, None)
        return self._sessions.pop(session_id, None) is not None

    async def purge(self, *, older_than_s: float, spare: Spare | None = None) -> int:
        """See `TranscriptStore.purge`."""
        latest = time.time() - older_than_s
        old = [s.session_id for s in self._sessions.values() if s.updated_at < latest]
        kept = await spare(old) if spare is not None else ()
        return sum([await self.delete_session(session_id) for session_id in old if session_id not in kept])

    async def ping(self) -> None:
        """Memory always answers."""

    async def close(self) -> None:
        """Forgets everything."""
        self._sessions.clear()
        self._owners.clear()
        self._finals.clear()

    def _known(self, session_id: str) -> SessionSummary:
        try:
            return self._sessions[session_id]
        except KeyError:
            raise UnknownSessionError(f"session {session_id} is not in the transcript store") from None
