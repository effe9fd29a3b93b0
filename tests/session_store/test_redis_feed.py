"""The live view of a session, from another gateway."""

# Redis does not tell when a subscription has reached it: one can only ask.

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from session_store.base import Final, PartialFeed, SessionState, SessionStore, StoreError
from session_store.factory import open_session_store
from session_store.redis import RedisSessionStore
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.redis

STATE = SessionState("s", hashlib.sha256(b"token").digest())
FINAL = Final(0, "It was the best of times 😀.", 0.25, 1.125, "en", 0.875, True)
LONG = 3600.0
PATIENCE_S = 20.0


@pytest.fixture
async def speaker(redis_server: RedisServer) -> AsyncIterator[SessionStore]:
    redis_server.flush()
    store = open_session_store(redis_server.url)
    yield store
    await store.close()


@pytest.fixture
async def listener(redis_server: RedisServer) -> AsyncIterator[RedisSessionStore]:
    store = open_session_store(redis_server.url)
    assert isinstance(store, RedisSessionStore)
    yield store
    await store.close()


async def heard(feed: AsyncIterator[dict[str, Any]]) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_S):
        return await anext(feed)


async def test_partials_and_finals_come_until_the_session_ends(
    speaker: SessionStore, listener: RedisSessionStore
) -> None:
    fence = await speaker.create(STATE, owner="a", ttl_s=LONG)
    await speaker.publish_partial("s", "it", 0)
    assert isinstance(listener, PartialFeed)
    feed = listener.follow("s")
    assert await heard(feed) == {"type": "partial", "seq": 0, "text": "it"}
    await speaker.publish_partial("s", "it was", 0)
    assert await heard(feed) == {"type": "partial", "seq": 0, "text": "it was"}
    await speaker.publish_final("s", FINAL)
    assert await heard(feed) == {
        "type": "final",
        "seq": 0,
        "text": FINAL.text,
        "start": 0.25,
        "end": 1.125,
        "language": "en",
        "confidence": 0.875,
        "punctuated": True,
    }
    await speaker.publish_partial("s", "and", 1)
    assert await heard(feed) == {"type": "partial", "seq": 1, "text": "and"}
    await speaker.delete("s", fence=fence)
    with pytest.raises(StopAsyncIteration):
        await heard(feed)


async def test_a_final_takes_the_cached_partial_away(speaker: SessionStore, listener: RedisSessionStore) -> None:
    await speaker.create(STATE, owner="a", ttl_s=LONG)
    first = listener.follow("s")
    await speaker.publish_partial("s", "it", 0)
    assert (await heard(first))["type"] == "partial"
    await speaker.publish_final("s", FINAL)
    assert (await heard(first))["type"] == "final"
    second = listener.follow("s")
    waiting = asyncio.create_task(heard(second))
    async with asyncio.timeout(PATIENCE_S):
        while (await listener._redis.pubsub_numsub("starling:feed:s"))[0][1] < 2:
            await asyncio.sleep(0.01)
    await speaker.publish_partial("s", "and", 1)
    assert await waiting == {"type": "partial", "seq": 1, "text": "and"}


async def test_what_waits_is_replaced_by_newer_partials_and_by_the_final(speaker: SessionStore) -> None:
    """All of these are published before the sender gets its turn."""
    assert isinstance(speaker, RedisSessionStore)
    await speaker.create(STATE, owner="a", ttl_s=LONG)
    feed = speaker.follow("s")
    first = asyncio.create_task(heard(feed))
    async with asyncio.timeout(PATIENCE_S):
        while not (await speaker._redis.pubsub_numsub("starling:feed:s"))[0][1]:
            await asyncio.sleep(0.01)
    await speaker.publish_partial("s", "it", 0)
    await speaker.publish_partial("s", "it was", 0)
    await speaker.publish_final("s", FINAL)
    await speaker.publish_partial("s", "and", 1)
    await speaker.publish_partial("s", "and then", 1)
    assert [await first, await heard(feed)] == [
        {"type": "final", "seq": 0, "text": FINAL.text, "start": 0.25, "end": 1.125}
        | {"language": "en", "confidence": 0.875, "punctuated": True},
        {"type": "partial", "seq": 1, "text": "and then"},
    ]


async def test_what_is_said_while_somebody_begins_to_follow_comes_once_and_in_order(
    speaker: SessionStore, listener: RedisSessionStore
) -> None:
    await speaker.create(STATE, owner="a", ttl_s=LONG)

    async def speak() -> None:
        for seq in itertools.count():
            await speaker.publish_partial("s", "it", seq)
            await speaker.ping()
            await speaker.publish_final("s", replace(FINAL, seq=seq))
            await asyncio.sleep(0)

    speaking = asyncio.create_task(speak())
    for _ in range(100):
        feed = listener.follow("s")
        news = [await heard(feed) for _ in range(5)]
        assert isinstance(feed, AsyncGenerator)
        await feed.aclose()
        places = [(message["seq"], message["type"] == "final") for message in news]
        assert places == sorted(set(places))
    speaking.cancel()


async def test_closing_out_ends_the_feed(speaker: SessionStore, listener: RedisSessionStore) -> None:
    fence = await speaker.create(STATE, owner="a", ttl_s=LONG)
    await speaker.publish_partial("s", "it", 0)
    feed = listener.follow("s")
    assert (await heard(feed))["text"] == "it"
    await speaker.touch("s", fence=fence, ttl_s=0.001)
    async with asyncio.timeout(PATIENCE_S):
        while not await speaker.expired(10):
            await asyncio.sleep(0.01)
    with pytest.raises(StopAsyncIteration):
        await heard(feed)


async def test_nothing_comes_of_a_session_that_is_over_or_never_was(
    speaker: SessionStore, listener: RedisSessionStore
) -> None:
    fence = await speaker.create(STATE, owner="a", ttl_s=LONG)
    await speaker.delete("s", fence=fence)
    for session_id in ("s", "never"):
        with pytest.raises(StopAsyncIteration):
            await heard(listener.follow(session_id))


async def test_followers_have_a_limit_and_take_no_connection_from_sessions(
    speaker: SessionStore, listener: RedisSessionStore
) -> None:
    fence = await speaker.create(STATE, owner="a", ttl_s=LONG)
    await speaker.publish_partial("s", "it", 0)
    feeds = [listener.follow("s") for _ in range(60)]
    outcomes = await asyncio.gather(*(heard(feed) for feed in feeds), return_exceptions=True)
    assert StoreError in {type(outcome) for outcome in outcomes}
    await asyncio.gather(*(listener.save(STATE, fence=fence, ttl_s=LONG) for _ in range(50)))


async def test_redis_away(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer() as server:
        store = open_session_store(server.url, deadline_s=0.3)
        assert isinstance(store, RedisSessionStore)
        await store.create(STATE, owner="a", ttl_s=LONG)
        await store.publish_partial("s", "it", 0)
        feed = store.follow("s")
        assert (await heard(feed))["text"] == "it"
        server.kill()
        with pytest.raises(StoreError):
            await heard(feed)
        async with asyncio.timeout(PATIENCE_S):
            for seq in range(3000):
                await store.publish_partial(f"s{seq}", "what was said", seq)
            while not caplog.records:
                await asyncio.sleep(0.01)
        assert "what was said" not in caplog.text
        assert "w0rd" not in caplog.text
        server.start()
        await store.create(STATE, owner="a", ttl_s=LONG)
        feed = store.follow("s")
        waiting = asyncio.create_task(heard(feed))
        async with asyncio.timeout(PATIENCE_S):
            while not waiting.done():
                await store.publish_partial("s", "it was", 0)
                await asyncio.wait({waiting}, timeout=0.05)
        assert (await waiting)["text"] == "it was"
        await store.close()
