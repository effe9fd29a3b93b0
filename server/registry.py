"""The sessions of this process: beginning, resuming, expiring and draining them."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import secrets
import socket
from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakValueDictionary

import structlog

from server.config import Settings
from server.live import TAKEN_OVER, LiveSession
from server.outbox import Outbox
from server.parts import Parts
from server.protocol.close import CloseCode, Closing
from server.protocol.stream import Resume
from server.quota import AudioQuota, Identity
from server.session.commands import Send
from server.session.messages import Error, Opened
from server.session.session import Session
from server.session.settings import SessionSettings
from server.upkeep import Upkeep
from session_store.base import (
    Claimed,
    Expired,
    SessionExistsError,
    SessionState,
    StoreError,
    TooManySessionsError,
)

log = structlog.get_logger(__name__)

ROOM_WAITS_S = (0.1, 0.3, 0.6)
"""How long a key's last session is let end before the next one is refused: its client knows before the store does."""

WINDOW_PASSED = "the session's resume window has passed: start a new one"

NO_TOKEN = bytes(32)
"""In place of a token's hash for sessions that are known by their id alone; no token has this hash."""


class Registry:
    """All live sessions of one process."""

    def __init__(self, parts: Parts, settings: Settings) -> None:
        self._parts = parts
        self._settings = settings
        self._policy, self._policies = settings.policy, settings.policies
        self.quota = AudioQuota(parts.sessions)
        self.upkeep = Upkeep(parts, settings.resume_window_s, lambda: self.sessions)
        self._live: dict[str, LiveSession] = {}
        self._ownerships: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._expiries: dict[str, asyncio.TimerHandle] = {}
        self._owner = f"{socket.gethostname()}/{secrets.token_hex(4)}"
        self.is_draining = False

    def __len__(self) -> int:
        return len(self._live)

    @property
    def sessions(self) -> list[LiveSession]:
        """Those alive at the moment."""
        return list(self._live.values())

    @property
    def adrift(self) -> int:
        """How many sessions have lost their connection and may be resumed."""
        return sum(live.outbox is None and not live.is_over for live in self._live.values())

    async def is_resumable(self, session_id: str, identity: Identity) -> bool:
        """Whether the store has such a session of this key, alive; false where the store is out of reach."""
        try:
            known = await self._parts.sessions.peek(session_id)
        except StoreError as error:
            log.warning("session store out of reach", error=str(error))
            return False
        return isinstance(known, SessionState) and known.key_id == identity.key_id

    async def alive(self, session_ids: Sequence[str]) -> set[str]:
        """Those of these sessions that somebody still speaks in or may resume, on whichever server.

        Raises:
            StoreError: the session store is out of reach.
        """
        known = [await self._parts.sessions.peek(session_id) for session_id in session_ids]
        stored = {state.session_id for state in known if isinstance(state, SessionState)}
        return stored | (self._live.keys() & set(session_ids))

    def start(self) -> None:
        """Begins to look after the sessions."""
        self.upkeep.start()

    async def close(self) -> None:
        """Lets go of all sessions; what is stored of them can be resumed elsewhere."""
        await self.upkeep.close()
        for live in self.sessions:
            live.over(Closing(CloseCode.DRAINING, "the server is going down: resume the session elsewhere"))

    # --- beginning and resuming

    async def begin(self, settings: SessionSettings, identity: Identity, outbox: Outbox) -> LiveSession:
        """Begins a session and sends its first message."""
        session_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
        state = SessionState(session_id, _hash(secret), identity.key_id, settings.to_json())
        try:
            fence = await self._create(state, identity)
        except StoreError as error:
            raise _store_gone(error) from error
        session = self._core(state, settings)
        live = self._add(session, session_id, fence)
        try:
            await live.keeper.register()
        except StoreError as error:
            log.warning("transcript store out of reach", session=session_id, error=str(error))
        live.attach(outbox)
        outbox.put(self._opened(live, f"{session_id}.{secret}", resumed=False))
        return live

    async def resume(self, request: Resume, identity: Identity, outbox: Outbox) -> LiveSession:
        """Continues a session, on whichever server it was, and brings the connection up to date.

        Raises:
            Closing: the session cannot be resumed, or cannot be resumed just now.
        """
        session_id, secret = request.session_id, request.secret
        live: LiveSession | None = None
        outcome = "error"
        try:
            live = self._ending(session_id, secret, identity, outbox)
            if live is not None:
                outcome = "after the end"
                await live.replay(outbox, [Send(self._opened(live, request.token, resumed=True))], request.last_seq)
                return live
            await self._check_token(session_id, secret, identity)
            async with self._ownership(session_id):
                live, outcome = await self._claim(request, outbox)
            opened = Send(self._opened(live, request.token, resumed=True))
            await live.replay(outbox, [opened], request.last_seq)
        except StoreError as error:
            if live is not None:
                self.leave(live, outbox, for_good=False)
            raise _store_gone(error) from error
        except Closing as closing:
            outcome = closing.code.name.lower()
            raise
        finally:
            self._parts.metrics.resumes.labels(outcome).inc()
        log.info("session resumed", session=session_id, by=outcome, from_offset=request.from_offset)
        return live

    def _ending(self, session_id: str, secret: str, identity: Identity, outbox: Outbox) -> LiveSession | None:
        """A session of this process whose audio has ended, attached to a client that missed what came of it."""
        live = self._live.get(session_id)
        if live is None or live.is_over or not live.session.is_ending:
            return None
        if not _allows(live.session.state(), _hash(secret), identity):
            return None
        if live.is_concluding:
            raise Closing(CloseCode.WINDOW_PASSED, "the session has ended: start a new one")
        self._cancel_expiry(session_id)
        outbox.hold()
        live.attach(outbox)
        return live

    def _ownership(self, session_id: str) -> asyncio.Lock:
        """Held from a session's claim in the store until whoever claimed it has it: who comes second would else be
        given the newer fence and lose to the first."""
        return self._ownerships.setdefault(session_id, asyncio.Lock())

    async def _claim(self, request: Resume, outbox: Outbox) -> tuple[LiveSession, str]:
        """Takes a session whose token was checked."""
        session_id = request.session_id
        claimed = await self._parts.sessions.claim(session_id, owner=self._owner, ttl_s=self._parts.ttl_s)
        if not isinstance(claimed, Claimed):
            raise Closing(CloseCode.WINDOW_PASSED, WINDOW_PASSED)
        try:
            claimed = replace(claimed, state=await self._caught_up(claimed.state, request.from_offset))
        except BaseException:
            self._let_be(claimed)
            raise
        return self._take(claimed, request, outbox)

    def _let_be(self, claimed: Claimed) -> None:
        """A claim that came to nothing: who has the session here goes on with it."""
        local = self._live.get(claimed.state.session_id)
        if local is not None and _is_current(local, claimed):
            local.keeper.fence = claimed.fence

    async def _caught_up(self, state: SessionState, from_offset: int) -> SessionState:
        """The state, brought past finals that lie before the client's audio: a store that lost its last writes must
        not make a seq be used twice."""
        begin_s = from_offset / SessionSettings.from_json(state.settings).sample_rate
        later = await self._parts.transcripts.finals(state.session_id, after=state.next_seq - 1)
        passed = [final.seq + 1 for final in later if final.end <= begin_s]
        return replace(state, next_seq=max([state.next_seq, *passed]))

    def _take(self, claimed: Claimed, request: Resume, outbox: Outbox) -> tuple[LiveSession, str]:
        """Attaches the connection to the session as this process holds it, if nobody else has had it since; else to
        the session as the store knows it."""
        session_id = claimed.state.session_id
        local = self._live.get(session_id)
        outbox.hold()
        self._cancel_expiry(session_id)
        if local is not None and _is_current(local, claimed):
            local.keeper.fence = claimed.fence
            local.attach(outbox)
            local.do(local.session.reattach, request.from_offset, local.now())
            return local, "same process"
        if local is not None:
            local.over(Closing(CloseCode.TAKEN_OVER, TAKEN_OVER))
        settings = SessionSettings.from_json(claimed.state.settings)
        session = self._core(claimed.state, settings, request.from_offset)
        live = self._add(session, session_id, claimed.fence)
        live.attach(outbox)
        return live, "from store"

    async def join(
        self, session_id: str, settings: SessionSettings, identity: Identity, outbox: Outbox, *, after: int | None
    ) -> LiveSession:
        """Begins a session under an id of the client's own, or goes on with it from its last seq; nothing is sent
        again but the finals behind `after`, if that is given.

        Raises:
            Closing: the id belongs to somebody else, or the stores are out of reach.
        """
        live: LiveSession | None = None
        try:
            await self._await_end(session_id)
            owner = await self._parts.transcripts.owner(session_id)
            known = await self._parts.sessions.peek(session_id)
            if (owner or "") != identity.key_id and owner is not None:
                raise Closing(CloseCode.NO_SESSION, "this session id belongs to somebody else: choose another")
            if known is not None and (known.token_hash != NO_TOKEN or known.key_id != identity.key_id):
                raise Closing(CloseCode.NO_SESSION, "this session id belongs to somebody else: choose another")
            last = await self._parts.transcripts.last_final(session_id) if owner is not None else None
            state = SessionState(session_id, NO_TOKEN, identity.key_id, settings.to_json())
            if last is not None:
                acked = math.ceil(last.end * settings.sample_rate)
                state = replace(state, acked=acked, next_seq=last.seq + 1, tail=last.text)
            async with self._ownership(session_id):
                live = await self._take_id(state, settings, known, identity, outbox)
            await live.keeper.register()
            await live.replay(outbox, [], state.next_seq - 1 if after is None else after)
        except StoreError as error:
            if live is not None:
                self.leave(live, outbox, for_good=False)
            raise _store_gone(error) from error
        except SessionExistsError:
            raise Closing(CloseCode.OVERLOADED, "this session is just being opened elsewhere: try again") from None
        return live

    async def _await_end(self, session_id: str) -> None:
        """A session of this id that has ended is let finish: it is begun anew after its last final."""
        live = self._live.get(session_id)
        if live is None or not live.session.is_ending:
            return
        live.leave()
        try:
            async with asyncio.timeout(self._settings.store_timeout_s):
                await live.wait_over()
        except TimeoutError:
            raise Closing(CloseCode.OVERLOADED, "this session is just ending: try again", retry_after_ms=1000) from None

    async def _take_id(
        self,
        fresh: SessionState,
        settings: SessionSettings,
        known: SessionState | Expired | None,
        identity: Identity,
        outbox: Outbox,
    ) -> LiveSession:
        """Goes on where the session is alive, here or in the store, and begins it anew where it is not."""
        outbox.hold()
        claimed = None
        if isinstance(known, SessionState):
            claimed = await self._parts.sessions.claim(fresh.session_id, owner=self._owner, ttl_s=self._parts.ttl_s)
        local = self._live.get(fresh.session_id)
        if isinstance(claimed, Claimed):
            received = claimed.state.acked
            if local is not None and _is_current(local, claimed):
                received = local.session.received
            live, _ = self._take(claimed, Resume(fresh.session_id, -1, received), outbox)
            # What was being said when the line broke cannot be continued.
            live.do(live.session.finalize, None, live.now())
            return live
        if local is not None:
            local.over(None)
        fence = await self._create(fresh, identity)
        session = self._core(fresh, settings)
        live = self._add(session, fresh.session_id, fence)
        live.attach(outbox)
        return live

    async def _create(self, state: SessionState, identity: Identity) -> int:
        """Stores a new session, if its key may have one more."""
        limit, ttl_s = identity.max_sessions, self._parts.ttl_s
        for wait_s in (*ROOM_WAITS_S, None):
            try:
                return await self._parts.sessions.create(state, owner=self._owner, ttl_s=ttl_s, key_limit=limit)
            except TooManySessionsError:
                if wait_s is not None:
                    await asyncio.sleep(wait_s)
        text = f"all {limit} sessions of this key are taken, those that can be resumed included: end one"
        raise Closing(CloseCode.REVOKED, text)

    async def _check_token(self, session_id: str, secret: str, identity: Identity) -> None:
        """Before the session is claimed: who has no token must not disturb its owner."""
        given = _hash(secret)
        known = await self._parts.sessions.peek(session_id) if session_id else None
        local = self._live.get(session_id)
        is_here = local is not None and not local.is_concluding and _allows(local.session.state(), given, identity)
        if local is not None and is_here and not isinstance(known, SessionState):
            # The store's clock was set, or it lost its memory: a session that is alive here is put right there.
            await local.touch()
            known = await self._parts.sessions.peek(session_id)
        if known is None or not _allows(known, given, identity):
            raise Closing(CloseCode.NO_SESSION, "there is no session with this token: start a new one")
        if not isinstance(known, SessionState):
            raise Closing(CloseCode.WINDOW_PASSED, WINDOW_PASSED)

    def _core(self, state: SessionState, settings: SessionSettings, from_offset: int | None = None) -> Session:
        return Session(state, settings, self._policy, policies=self._policies, from_offset=from_offset)

    def _opened(self, live: LiveSession, token: str, *, resumed: bool) -> Opened:
        settings = live.session.settings
        return Opened(
            session_id=live.session_id,
            token=token,
            resumed=resumed,
            language=live.session.language,
            encoding=settings.encoding,
            sample_rate=settings.sample_rate,
            audio_offset=live.session.received,
            next_seq=live.session.next_seq,
            resume_window_s=self._settings.resume_window_s,
        )

    def _add(self, session: Session, session_id: str, fence: int) -> LiveSession:
        live = LiveSession(session, session_id, fence, self._parts, self._ownership(session_id))
        live.on_over = self._forget
        self._live[session_id] = live
        self._parts.metrics.sessions.set(len(self._live))
        return live

    def _forget(self, live: LiveSession) -> None:
        if self._live.get(live.session_id) is live:
            del self._live[live.session_id]
            self._cancel_expiry(live.session_id)
        self._parts.metrics.sessions.set(len(self._live))

    # --- connections that go away

    def leave(self, live: LiveSession, outbox: Outbox, *, for_good: bool) -> None:
        """A connection is gone. `for_good`: the client said so; else the session can be resumed for a while."""
        if not live.detach(outbox) or live.is_over:
            return
        if for_good:
            live.leave()
            return
        loop = asyncio.get_running_loop()
        self._cancel_expiry(live.session_id)
        self._expiries[live.session_id] = loop.call_later(self._settings.resume_window_s, self._expire, live)

    def _expire(self, live: LiveSession) -> None:
        """The resume window has passed: what was said last goes into the transcript, the live state goes."""
        self._expiries.pop(live.session_id, None)
        if live.outbox is None and not live.is_over:
            log.info("session expired", session=live.session_id)
            live.leave()

    def _cancel_expiry(self, session_id: str) -> None:
        handle = self._expiries.pop(session_id, None)
        if handle is not None:
            handle.cancel()

    # --- all at once

    def tell_all(self, error: Error) -> None:
        """Sends every connected client the same news."""
        for live in self.sessions:
            if live.outbox is not None:
                live.outbox.put(error)

    async def drain(self, timeout_s: float) -> None:
        """Sends clients elsewhere, each as soon as nothing is owed to it, all of them after `timeout_s`."""
        self.is_draining = True
        deadline = asyncio.get_running_loop().time() + timeout_s
        await asyncio.gather(*(self._send_away(live, deadline) for live in self.sessions))

    async def _send_away(self, live: LiveSession, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await live.owed_nothing()
        except TimeoutError:
            log.info("session left resumable", session=live.session_id)
        live.over(Closing(CloseCode.DRAINING, "the server is going down: resume the session elsewhere"))


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _allows(known: SessionState | Expired, given: bytes, identity: Identity) -> bool:
    same_token = hmac.compare_digest(known.token_hash, given)
    return same_token and known.key_id == identity.key_id


def _is_current(local: LiveSession, claimed: Claimed) -> bool:
    """Whether nobody else has had the session since this process did: what it holds is newer than what is stored."""
    return not local.is_over and local.keeper.fence + 1 == claimed.fence


def _store_gone(error: StoreError) -> Closing:
    log.warning("session store out of reach", error=str(error))
    return Closing(CloseCode.OVERLOADED, "the session store is out of reach: try again", retry_after_ms=1000)
