"""The two interfaces behind which all state lives that outlasts a process.

`SessionStore` keeps what a gateway needs to continue a session that it has never seen: it is small, and gone once
the session is over. `TranscriptStore` keeps the finals. Neither ever holds audio.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

DEFAULT_DEADLINE_S = 2.0
"""Seconds after which a call that has not been answered raises `StoreError`."""

TOMBSTONE_S = 24 * 3600.0
"""Seconds for which an ended or expired session is told from one that never existed."""


class StoreError(Exception):
    """The store could not be reached or did not answer in time. The operation may or may not have happened."""


class UnknownSessionError(StoreError):
    """The store answers, but does not know this session: it lost it, or it was never told of it.

    Raised by `SessionStore.touch` (a `save` puts the session back) and by `TranscriptStore.append` and
    `end_session` (an `open_session` does).
    """


class SessionExistsError(Exception):
    """`SessionStore.create` with the id of a session that is alive and has another owner."""


class TooManySessionsError(Exception):
    """`SessionStore.create` for an API key that has as many sessions as it may."""


class StaleOwnerError(Exception):
    """Another connection has claimed the session since: this owner must not write, and should close."""


@dataclass(frozen=True, slots=True)
class SessionState:
    """Everything a server must know to continue a session.

    Attributes:
        session_id: public name of the session, safe to log.
        token_hash: SHA-256 of the secret half of the token, 32 bytes.
        key_id: the API key the session belongs to; empty where keys are off.
        settings: plain JSON values, opaque to the store.
        acked: offset in input samples before which everything is in a stored final or is known silence.
        next_seq: seq of the next final.
        tail: end of the last final's text, context for the next one's punctuation.
        marks: control messages that lie at or beyond `acked`, as plain JSON values, opaque to the store.
    """

    session_id: str
    token_hash: bytes = field(repr=False)
    key_id: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    acked: int = 0
    next_seq: int = 0
    tail: str = field(default="", repr=False)
    marks: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Final:
    """One final as stored and as replayed."""

    seq: int
    text: str = field(repr=False)
    start: float
    end: float
    language: str
    confidence: float
    punctuated: bool


@dataclass(frozen=True, slots=True)
class Claimed:
    """A session whose ownership was just taken: `fence` authorises the owner's writes until the next claim."""

    state: SessionState
    fence: int


@dataclass(frozen=True, slots=True)
class Expired:
    """The session existed, and its resume window has passed (or it was ended): it cannot be resumed.

    Attributes:
        token_hash: as in `SessionState`, so that only a holder of the token need be told that it existed.
        key_id: as in `SessionState`.
    """

    token_hash: bytes = field(default=b"", repr=False)
    key_id: str = ""


class SessionStore(Protocol):
    """Live state of sessions. All methods raise `StoreError` when the store cannot be reached in time.

    Times are the store's own business: every `ttl_s` counts from the moment of the call by the store's clock, so
    that gateways with differing clocks agree.
    """

    async def create(self, state: SessionState, *, owner: str, ttl_s: float, key_limit: int | None = None) -> int:
        """Stores a new session owned by `owner` (a name of process and connection) and returns its fence.

        Calling it again with the same owner and id returns the same fence, so that it may be retried. An id whose
        session has ended or expired may be used again; its fence goes on rising.

        Args:
            key_limit: how many sessions of `state.key_id`, neither ended nor expired, there may be with this one;
                an empty key id has no limit.

        Raises:
            SessionExistsError: the id is in use by another owner.
            TooManySessionsError: the key has `key_limit` sessions already, over all gateways.
        """

    async def peek(self, session_id: str) -> SessionState | Expired | None:
        """The state without claiming it; None for a session that never existed (or is long forgotten)."""

    async def claim(self, session_id: str, *, owner: str, ttl_s: float) -> Claimed | Expired | None:
        """Takes ownership atomically: raises the fence, so that every earlier owner's writes fail from now on."""

    async def save(self, state: SessionState, *, fence: int, ttl_s: float) -> None:
        """Replaces the state and renews its time to live.

        A session whose time has passed lives again, as long as nobody was given it by `expired`. One that the store
        does not know (any more) is put back under this fence: a store that lost its memory costs no session.

        Raises:
            StaleOwnerError: `fence` is not the newest, or the session was ended or closed out.
        """

    async def touch(self, session_id: str, *, fence: int, ttl_s: float) -> None:
        """Renews the time to live of a session; raises `StaleOwnerError` as `save` does.

        Raises:
            UnknownSessionError: the store lost the session; `save` puts it back.
        """

    async def delete(self, session_id: str, *, fence: int) -> None:
        """Ends the session: from now on `claim` gives `Expired`, for a day. Stale owners raise `StaleOwnerError`.

        Ending an ended or an unknown session does nothing.
        """

    async def expired(self, limit: int, *, grace_s: float = 0.0) -> Sequence[SessionState]:
        """Sessions whose time to live has passed and which nobody has renewed for `grace_s` since a call of this method
        first found them so; at most `limit`, those that were found first, first.

        Each is given out once over all gateways; to its last owner it is stale from then on. The grace lets the
        gateway that still holds the session's audio close it out itself, with the last words in it. It counts from a
        call, and not from the end of the time to live: a store that was out of reach for long, or whose clock was
        set, finds all sessions expired at once, and those that live must have the time to say so.
        """

    async def issue_ticket(self, ticket_hash: bytes, key_id: str, *, ttl_s: float) -> None:
        """Remembers the SHA-256 hash of a ticket for a key, until it is redeemed or its time has passed."""

    async def redeem_ticket(self, ticket_hash: bytes) -> str | None:
        """The key's id of a ticket that was issued, by whichever gateway; at the first call only, then None."""

    async def add_usage(self, key_id: str, seconds: float) -> float:
        """Adds seconds of audio to a key's account and returns its total of the present UTC day, over all gateways.

        A call that failed may have been counted: what is repeated after a `StoreError` may count twice.
        """

    async def publish_partial(self, session_id: str, text: str, seq: int) -> None:
        """Shows a session's newest partial to other processes. Never waits for the store and never raises; does
        nothing where the backend has no live feed."""

    async def publish_final(self, session_id: str, final: Final) -> None:
        """Shows a stored final to those who follow the session live; otherwise as `publish_partial`."""

    async def ping(self) -> None:
        """Answers when the store can be written."""

    async def close(self) -> None:
        """Frees connections and files."""


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """One line of a session list. Times are UNIX seconds."""

    session_id: str
    label: str
    language: str
    created_at: float
    updated_at: float
    finals: int
    audio_seconds: float
    ended: bool


Spare = Callable[[Sequence[str]], Awaitable[Collection[str]]]
"""Of these session ids, those that must stay."""


class TranscriptStore(Protocol):
    """Finals, and one line for each session. All methods raise `StoreError` when the store cannot be reached."""

    async def open_session(self, session_id: str, *, label: str, language: str, key_id: str) -> None:
        """Registers a session; does nothing where it is already known.

        Raises:
            ValueError: `session_id` or `key_id` is not 1 (0 for `key_id`) to 128 printable characters without spaces.
        """

    async def append(self, session_id: str, final: Final) -> None:
        """Stores a final. Storing the same seq again with the same content does nothing; a differing content keeps
        the first (a final never changes).

        Raises:
            UnknownSessionError: the session was not opened, or was deleted since.
        """

    async def finals(self, session_id: str, *, after: int = -1) -> Sequence[Final]:
        """The session's finals with ``seq > after``, in order."""

    async def last_final(self, session_id: str) -> Final | None:
        """The final with the highest seq, however many there are; None where there is none."""

    async def end_session(self, session_id: str, *, audio_seconds: float) -> None:
        """Marks the session as ended.

        Raises:
            UnknownSessionError: the session was not opened, or was deleted since.
        """

    async def sessions(self, *, limit: int = 100, key_id: str | None = None) -> Sequence[SessionSummary]:
        """Newest first."""

    async def session(self, session_id: str) -> SessionSummary | None:
        """One session's line."""

    async def owner(self, session_id: str) -> str | None:
        """The key id a session belongs to; None where the session is unknown."""

    async def delete_session(self, session_id: str) -> bool:
        """Deletes a session and all its finals; false where there was none."""

    async def purge(self, *, older_than_s: float, spare: Spare | None = None) -> int:
        """Deletes sessions not updated for that long, by the store's clock; returns how many.

        Args:
            older_than_s: seconds.
            spare: is asked about all that would go, and names those that must stay. A session in which nobody speaks
                is not updated, and a clock that is set makes every session look old.
        """

    async def ping(self) -> None:
        """Answers when the store can be written."""

    async def close(self) -> None:
        """Frees connections and files."""


@runtime_checkable
class PartialFeed(Protocol):
    """Live view of a session from another process, where the backend can (Redis)."""

    def follow(self, session_id: str) -> AsyncIterator[dict[str, Any]]:
        """Yields the session's partials and finals as they appear, the newest partial at once.

        ``{"type": "partial", "seq", "text"}`` and ``{"type": "final", "seq", "text", "start", "end", "language",
        "confidence", "punctuated"}``. Ends with the session. Raises `StoreError` when the connection breaks, or when
        too many follow already.
        """
