"""The live view of a session through Redis: the newest partial in a key, partials and finals on a channel."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import orjson
from redis.asyncio import Redis
from redis.exceptions import RedisError

from session_store.base import Final, StoreError
from session_store.codec import clean_text

log = logging.getLogger(__name__)

PARTIAL_TTL_MS = 300_000
ENDED = orjson.dumps({"type": "ended"})

_MAX_WAITING = 1000
_MAX_BATCH = 256
_PAUSE_S = 0.5
_SILENCE_S = 10.0


def partial_key(prefix: str, session_id: str) -> str:
    """The key that holds a session's newest partial."""
    return f"{prefix}partial:{session_id}"


def channel(prefix: str, session_id: str) -> str:
    """The channel on which a session can be followed."""
    return f"{prefix}feed:{session_id}"


class Publisher:
    """Sends partials and finals on from a task of its own, so that no session ever waits for its followers.

    A partial that still waits is replaced by a newer one, and dropped for its segment's final. While Redis is away
    what cannot be sent is dropped: finals are in the transcript store, partials are hints.

    Args:
        redis: the client to send with.
        prefix: of all keys and channels.
        deadline_s: longest wait for Redis.
    """

    def __init__(self, redis: Redis, prefix: str, *, deadline_s: float) -> None:
        self._redis = redis
        self._prefix = prefix
        self._deadline_s = deadline_s
        self._partials: dict[str, tuple[int, bytes]] = {}
        self._finals: deque[tuple[str, bytes]] = deque(maxlen=_MAX_WAITING)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_away = False

    def partial(self, session_id: str, text: str, seq: int) -> None:
        """Takes a partial to be sent."""
        if len(self._partials) >= _MAX_WAITING and session_id not in self._partials:
            return
        message = {"type": "partial", "seq": seq, "text": clean_text(text)}
        self._partials[session_id] = (seq, orjson.dumps(message))
        self._start()

    def final(self, session_id: str, final: Final) -> None:
        """Takes a final to be sent."""
        waiting = self._partials.get(session_id)
        if waiting is not None and waiting[0] <= final.seq:
            del self._partials[session_id]
        message = {
            "type": "final",
            "seq": final.seq,
            "text": clean_text(final.text),
            "start": final.start,
            "end": final.end,
            "language": final.language,
            "confidence": final.confidence,
            "punctuated": final.punctuated,
        }
        self._finals.append((session_id, orjson.dumps(message)))
        self._start()

    async def close(self) -> None:
        """Stops the task; what has not been sent is dropped."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def _start(self) -> None:
        self._wake.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="partial feed")

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._finals or self._partials:
                try:
                    async with asyncio.timeout(self._deadline_s):
                        await self._send_some()
                    self._is_away = False
                except (RedisError, OSError, TimeoutError) as exc:
                    if not self._is_away:
                        log.warning("live feed: Redis does not take partials (%s); they are dropped", exc)
                    self._is_away = True
                    await asyncio.sleep(_PAUSE_S)

    async def _send_some(self) -> None:
        async with self._redis.pipeline(transaction=False) as pipe:
            for _ in range(min(len(self._finals), _MAX_BATCH)):
                session_id, message = self._finals.popleft()
                pipe.delete(partial_key(self._prefix, session_id))
                pipe.publish(channel(self._prefix, session_id), message)
            for session_id in list(self._partials)[:_MAX_BATCH]:
                _, message = self._partials.pop(session_id)
                pipe.set(partial_key(self._prefix, session_id), message, px=PARTIAL_TTL_MS)
                pipe.publish(channel(self._prefix, session_id), message)
            await pipe.execute()


async def follow(redis: Redis, prefix: str, session_id: str, *, deadline_s: float) -> AsyncIterator[dict[str, Any]]:
    """See `PartialFeed.follow`.

    What is published between the subscription and the look at the newest partial arrives by both ways. A mark on the
    channel, sent together with that look, tells what came before it: of that, only finals are passed on.
    """
    name, mark = channel(prefix, session_id), orjson.dumps({"type": "mark", "of": secrets.token_hex(8)})
    try:
        async with redis.pubsub(ignore_subscribe_messages=True) as subscription:
            async with asyncio.timeout(deadline_s), redis.pipeline(transaction=True) as pipe:
                await subscription.subscribe(name)
                pipe.hexists(f"{prefix}session:{session_id}", "body")
                pipe.get(partial_key(prefix, session_id))
                pipe.publish(name, mark)
                is_live, newest, _ = await pipe.execute()
            if not is_live:
                return
            is_marked = False
            while True:
                message = await subscription.get_message(timeout=_SILENCE_S)
                if message is None:
                    async with asyncio.timeout(deadline_s):
                        await redis.ping()
                    continue
                if message["data"] == ENDED:
                    return
                if message["data"] == mark:
                    is_marked = True
                    if newest is not None:
                        yield orjson.loads(newest)
                    continue
                news = orjson.loads(message["data"])
                if news["type"] == "final" or (is_marked and news["type"] == "partial"):
                    yield news
    except (RedisError, OSError, TimeoutError) as exc:
        raise StoreError(f"live feed: Redis is away ({type(exc).__name__})") from exc
