"""Session state in Redis, for several gateways on several machines.

What is at stake in Redis is where sessions stand, not what was said: finals are in the transcript store. Still, run it
with ``appendonly yes``; without persistence a restart of Redis forgets the sessions that have no connection just
then, while the connected ones are put back by their next `save`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from session_store import redis_feed, redis_scripts
from session_store.base import (
    DEFAULT_DEADLINE_S,
    TOMBSTONE_S,
    Claimed,
    Expired,
    Final,
    SessionExistsError,
    SessionState,
    StaleOwnerError,
    StoreError,
    TooManySessionsError,
    UnknownSessionError,
)
from session_store.codec import check_hash, check_id, dump_state, load_state

_MAX_FOLLOWERS = 100
_TOMBSTONE_MS = int(TOMBSTONE_S * 1000)


class RedisSessionStore:
    """`SessionStore` and `PartialFeed` on one Redis server (or primary; not Redis Cluster), version 5 or newer.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py knows them.
        deadline_s: longest wait of a call, before `StoreError`.
        pool_size: most connections at a time; calls beyond wait for one.
        prefix: of all keys and channels.

    Raises:
        ValueError: the URL is not legal. The text may quote it.
    """

    def __init__(
        self,
        url: str,
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        pool_size: int = 16,
        prefix: str = "starling:",
    ) -> None:
        options: dict[str, Any] = {
            "socket_connect_timeout": deadline_s,
            "socket_timeout": None,  # the deadline is the call's; a follower may wait long for the next word
            "socket_keepalive": True,
            "decode_responses": False,
            # Once more, for a connection that died while it was idle. All calls may be repeated.
            "retry": Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        }
        pool = BlockingConnectionPool.from_url(url, max_connections=pool_size, timeout=deadline_s, **options)
        self._redis = Redis.from_pool(pool)
        # Followers stay for long: they must not use up the connections that sessions need.
        self._followers = Redis.from_pool(ConnectionPool.from_url(url, max_connections=_MAX_FOLLOWERS, **options))
        self._prefix = prefix
        self._deadline_s = deadline_s
        self._name = _public_name(pool.connection_kwargs)
        self._publisher = redis_feed.Publisher(self._redis, prefix, deadline_s=deadline_s)
        script = self._redis.register_script
        self._create = script(redis_scripts.CREATE)
        self._peek = script(redis_scripts.PEEK)
        self._claim = script(redis_scripts.CLAIM)
        self._save = script(redis_scripts.SAVE)
        self._touch = script(redis_scripts.TOUCH)
        self._delete = script(redis_scripts.DELETE)
        self._expired = script(redis_scripts.EXPIRED)
        self._redeem = script(redis_scripts.REDEEM)
        self._add_usage = script(redis_scripts.ADD_USAGE)

    def __repr__(self) -> str:
        return f"RedisSessionStore({self._name!r})"

    async def create(self, state: SessionState, *, owner: str, ttl_s: float, key_limit: int | None = None) -> int:
        """See `SessionStore.create`."""
        limit = -1 if key_limit is None else key_limit
        values = (owner, state.token_hash, state.key_id, dump_state(state), _ms(ttl_s), _TOMBSTONE_MS, limit)
        fence = int(await self._run(self._create, state.session_id, *values))
        if fence < 0:
            raise TooManySessionsError(f"key {state.key_id} has {key_limit} sessions")
        if not fence:
            raise SessionExistsError(f"session {state.session_id} exists")
        return fence

    async def peek(self, session_id: str) -> SessionState | Expired | None:
        """See `SessionStore.peek`."""
        return _read(session_id, await self._run(self._peek, session_id))

    async def claim(self, session_id: str, *, owner: str, ttl_s: float) -> Claimed | Expired | None:
        """See `SessionStore.claim`."""
        reply = await self._run(self._claim, session_id, owner, _ms(ttl_s), _TOMBSTONE_MS)
        state = _read(session_id, reply)
        return Claimed(state, int(reply[3])) if isinstance(state, SessionState) else state

    async def save(self, state: SessionState, *, fence: int, ttl_s: float) -> None:
        """See `SessionStore.save`."""
        values = (fence, state.token_hash, state.key_id, dump_state(state), _ms(ttl_s), _TOMBSTONE_MS)
        _check_standing(await self._run(self._save, state.session_id, *values), state.session_id)

    async def touch(self, session_id: str, *, fence: int, ttl_s: float) -> None:
        """See `SessionStore.touch`."""
        standing = await self._run(self._touch, session_id, fence, _ms(ttl_s), _TOMBSTONE_MS)
        _check_standing(standing, session_id)
        if standing == b"unknown":
            raise UnknownSessionError(f"session {session_id} is not in {self._name}")

    async def delete(self, session_id: str, *, fence: int) -> None:
        """See `SessionStore.delete`."""
        standing = await self._run(self._delete, session_id, fence, _TOMBSTONE_MS, redis_feed.ENDED)
        _check_standing(standing, session_id)

    async def expired(self, limit: int, *, grace_s: float = 0.0) -> Sequence[SessionState]:
        """See `SessionStore.expired`."""
        args = (self._prefix, limit, int(grace_s * 1000), _TOMBSTONE_MS, redis_feed.ENDED)
        rows = await self._in_time(self._expired(keys=[f"{self._prefix}deadlines"], args=args))
        return [load_state(row[0].decode(), row[1], row[2].decode(), row[3]) for row in rows]

    async def issue_ticket(self, ticket_hash: bytes, key_id: str, *, ttl_s: float) -> None:
        """See `SessionStore.issue_ticket`."""
        check_id(key_id, "key_id")
        await self._in_time(self._redis.set(self._ticket(ticket_hash), key_id, px=_ms(ttl_s)))

    async def redeem_ticket(self, ticket_hash: bytes) -> str | None:
        """See `SessionStore.redeem_ticket`. Where Redis was lost before it answered, the ticket may be used up."""
        key_id = await self._in_time(self._redeem(keys=[self._ticket(ticket_hash)]))
        return None if key_id is None else str(key_id.decode())

    async def add_usage(self, key_id: str, seconds: float) -> float:
        """See `SessionStore.add_usage`."""
        account = f"{self._prefix}usage:{check_id(key_id, 'key_id')}:"
        return float(await self._in_time(self._add_usage(keys=[account], args=[repr(float(seconds))])))

    async def publish_partial(self, session_id: str, text: str, seq: int) -> None:
        """See `SessionStore.publish_partial`."""
        self._publisher.partial(session_id, text, seq)

    async def publish_final(self, session_id: str, final: Final) -> None:
        """See `SessionStore.publish_final`."""
        self._publisher.final(session_id, final)

    def follow(self, session_id: str) -> AsyncIterator[dict[str, Any]]:
        """See `PartialFeed.follow`. Holds a connection until it ends."""
        return redis_feed.follow(self._followers, self._prefix, session_id, deadline_s=self._deadline_s)

    async def ping(self) -> None:
        """See `SessionStore.ping`: writes, so that a full disk, full memory or a read-only replica shows."""
        await self._in_time(self._redis.set(f"{self._prefix}ping", b"", px=1000))

    async def close(self) -> None:
        """See `SessionStore.close`."""
        await self._publisher.close()
        for client in (self._redis, self._followers):
            await self._in_time(client.aclose(close_connection_pool=True))

    def _ticket(self, ticket_hash: bytes) -> str:
        return f"{self._prefix}ticket:{check_hash(ticket_hash, 'ticket_hash').hex()}"

    async def _run(self, script: Any, session_id: str, *args: Any) -> Any:
        p = self._prefix
        keys = [
            f"{p}session:{session_id}",
            f"{p}live:{session_id}",
            f"{p}deadlines",
            redis_feed.partial_key(p, session_id),
            redis_feed.channel(p, session_id),
        ]
        return await self._in_time(script(keys=keys, args=[session_id, *args]))

    async def _in_time(self, call: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(self._deadline_s):
                return await call
        except TimeoutError:
            raise StoreError(f"{self._name}: no answer within {self._deadline_s:g} s") from None
        except (RedisError, OSError) as exc:
            raise StoreError(f"{self._name}: {exc}") from exc


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _read(session_id: str, reply: Any) -> SessionState | Expired | None:
    if reply is None:
        return None
    if len(reply) == 2:
        return Expired(reply[0], reply[1].decode())
    return load_state(session_id, reply[0], reply[1].decode(), reply[2])


def _check_standing(standing: bytes, session_id: str) -> None:
    if standing == b"stale":
        raise StaleOwnerError(f"session {session_id} has a newer owner or is over")


def _public_name(options: dict[str, Any]) -> str:
    if "path" in options:
        return f"unix://{options['path']}"
    return f"redis://{options.get('host', 'localhost')}:{options.get('port', 6379)}/{options.get('db', 0)}"
