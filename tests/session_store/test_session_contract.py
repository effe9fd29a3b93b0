"""What every session store does alike."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace

import pytest

from session_store.base import (
    Claimed,
    Expired,
    Final,
    SessionExistsError,
    SessionState,
    SessionStore,
    StaleOwnerError,
    UnknownSessionError,
)
from tests.session_store.conftest import REDIS

pytestmark = pytest.mark.parametrize("session_url", ["memory", "sqlite", REDIS], indirect=True)

HASH = hashlib.sha256(b"token").digest()
STATE = SessionState(
    "session-1",
    HASH,
    key_id="key-1",
    settings={"language": "te", "sample_rate": 8000, "partials": True, "session_label": "naïve 😀"},
    acked=2**40,
    next_seq=7,
    tail="నమస్తే, and so on",
    marks=({"type": "finalize", "id": "a1", "at": 123}, {"type": "language", "language": "en", "at": 456}),
)
LONG = 3600.0
# Long enough for a busy machine to make a call in, short enough to wait for.
SHORT = 0.3


async def gone(store: SessionStore, session_id: str) -> None:
    """Waits until the session's time has passed by the store's own clock."""
    async with asyncio.timeout(20):
        while not isinstance(await store.peek(session_id), Expired):
            await asyncio.sleep(0.02)


async def test_what_is_created_is_read_back_whole(store: SessionStore) -> None:
    await store.create(STATE, owner="a", ttl_s=LONG)
    assert await store.peek(STATE.session_id) == STATE


async def test_unknown_session_is_none(store: SessionStore) -> None:
    assert await store.peek("never") is None
    assert await store.claim("never", owner="a", ttl_s=LONG) is None


async def test_claim_gives_the_state_and_a_higher_fence(store: SessionStore) -> None:
    fence = await store.create(STATE, owner="a", ttl_s=LONG)
    claimed = await store.claim(STATE.session_id, owner="b", ttl_s=LONG)
    assert isinstance(claimed, Claimed)
    assert claimed.state == STATE
    assert claimed.fence > fence


async def test_save_replaces_everything(store: SessionStore) -> None:
    fence = await store.create(STATE, owner="a", ttl_s=LONG)
    later = replace(STATE, acked=2**41, next_seq=8, tail="", marks=(), settings={})
    await store.save(later, fence=fence, ttl_s=LONG)
    assert await store.peek(STATE.session_id) == later


async def test_a_stale_owner_can_do_nothing(store: SessionStore) -> None:
    old = await store.create(STATE, owner="a", ttl_s=LONG)
    claimed = await store.claim(STATE.session_id, owner="b", ttl_s=LONG)
    assert isinstance(claimed, Claimed)
    with pytest.raises(StaleOwnerError):
        await store.save(replace(STATE, next_seq=99), fence=old, ttl_s=LONG)
    with pytest.raises(StaleOwnerError):
        await store.touch(STATE.session_id, fence=old, ttl_s=LONG)
    with pytest.raises(StaleOwnerError):
        await store.delete(STATE.session_id, fence=old)
    assert await store.peek(STATE.session_id) == STATE
    await store.save(replace(STATE, next_seq=8), fence=claimed.fence, ttl_s=LONG)


async def test_create_may_be_repeated_by_its_owner_only(store: SessionStore) -> None:
    fence = await store.create(STATE, owner="a", ttl_s=LONG)
    assert await store.create(STATE, owner="a", ttl_s=LONG) == fence
    with pytest.raises(SessionExistsError):
        await store.create(STATE, owner="b", ttl_s=LONG)
    await store.save(STATE, fence=fence, ttl_s=LONG)


async def test_after_the_time_to_live_it_is_expired_and_not_unknown(store: SessionStore) -> None:
    await store.create(STATE, owner="a", ttl_s=SHORT)
    await gone(store, STATE.session_id)
    claimed = await store.claim(STATE.session_id, owner="b", ttl_s=LONG)
    assert claimed == Expired(HASH, "key-1")
    assert await store.claim("never", owner="b", ttl_s=LONG) is None


async def test_save_and_touch_and_claim_renew_the_time_to_live(store: SessionStore) -> None:
    for name, session_id in (("save", "s-save"), ("touch", "s-touch"), ("claim", "s-claim"), ("", "s-none")):
        state = replace(STATE, session_id=session_id)
        fence = await store.create(state, owner="a", ttl_s=5 * SHORT)
        if name == "save":
            await store.save(state, fence=fence, ttl_s=LONG)
        elif name == "touch":
            await store.touch(session_id, fence=fence, ttl_s=LONG)
        elif name == "claim":
            await store.claim(session_id, owner="b", ttl_s=LONG)
    await gone(store, "s-none")
    for session_id in ("s-save", "s-touch", "s-claim"):
        assert isinstance(await store.peek(session_id), SessionState), session_id


async def test_the_owner_may_be_late_as_long_as_nobody_closed_the_session_out(store: SessionStore) -> None:
    fence = await store.create(STATE, owner="a", ttl_s=SHORT)
    await gone(store, STATE.session_id)
    await store.touch(STATE.session_id, fence=fence, ttl_s=SHORT)
    assert await store.peek(STATE.session_id) == STATE
    await gone(store, STATE.session_id)
    await store.save(replace(STATE, next_seq=8), fence=fence, ttl_s=LONG)
    assert await store.peek(STATE.session_id) == replace(STATE, next_seq=8)
    assert await store.expired(10) == []


async def test_expired_gives_each_out_once_and_locks_the_owner_out(store: SessionStore) -> None:
    fences = {}
    for number in range(5):
        state = replace(STATE, session_id=f"s-{number}", next_seq=number)
        fences[state.session_id] = await store.create(state, owner="a", ttl_s=SHORT + number / 100)
    live = replace(STATE, session_id="live")
    await store.create(live, owner="a", ttl_s=LONG)
    for session_id in fences:
        await gone(store, session_id)
    first = await store.expired(3)
    assert [(state.session_id, state.next_seq) for state in first] == [("s-0", 0), ("s-1", 1), ("s-2", 2)]
    assert [state.session_id for state in await store.expired(10)] == ["s-3", "s-4"]
    assert await store.expired(10) == []
    for session_id, fence in fences.items():
        assert await store.claim(session_id, owner="b", ttl_s=LONG) == Expired(HASH, "key-1")
        with pytest.raises(StaleOwnerError):
            await store.save(replace(STATE, session_id=session_id), fence=fence, ttl_s=LONG)
        with pytest.raises(StaleOwnerError):
            await store.touch(session_id, fence=fence, ttl_s=LONG)
    assert await store.peek("live") == live


async def test_expired_waits_for_the_grace(store: SessionStore) -> None:
    await store.create(STATE, owner="a", ttl_s=SHORT)
    await gone(store, STATE.session_id)
    assert await store.expired(10, grace_s=LONG) == []
    assert await store.expired(10) == [STATE]


async def test_the_grace_counts_from_when_a_session_was_found_late(store: SessionStore) -> None:
    """As when the store's clock was set, or nobody could reach it for long: whoever lives has time to say so."""
    fence = await store.create(STATE, owner="a", ttl_s=SHORT)
    await gone(store, STATE.session_id)
    for _ in range(2):
        await asyncio.sleep(2 * SHORT)  # what is tested is that this time does not count
        assert await store.expired(10, grace_s=SHORT) == []
        await store.touch(STATE.session_id, fence=fence, ttl_s=SHORT)
        await gone(store, STATE.session_id)
    states: Sequence[SessionState] = []
    async with asyncio.timeout(20):
        while not states:
            states = await store.expired(10, grace_s=SHORT)
    assert states == [STATE]
    with pytest.raises(StaleOwnerError):
        await store.touch(STATE.session_id, fence=fence, ttl_s=LONG)


async def test_deleted_is_expired_for_good(store: SessionStore) -> None:
    fence = await store.create(STATE, owner="a", ttl_s=LONG)
    await store.delete(STATE.session_id, fence=fence)
    assert await store.peek(STATE.session_id) == Expired(HASH, "key-1")
    assert await store.claim(STATE.session_id, owner="b", ttl_s=LONG) == Expired(HASH, "key-1")
    assert await store.expired(10) == []
    with pytest.raises(StaleOwnerError):
        await store.save(STATE, fence=fence, ttl_s=LONG)
    with pytest.raises(StaleOwnerError):
        await store.touch(STATE.session_id, fence=fence, ttl_s=LONG)
    await store.delete(STATE.session_id, fence=fence)
    await store.delete("never", fence=1)


async def test_a_stale_owner_cannot_delete_what_is_over_either(store: SessionStore) -> None:
    old = await store.create(STATE, owner="a", ttl_s=LONG)
    claimed = await store.claim(STATE.session_id, owner="b", ttl_s=LONG)
    assert isinstance(claimed, Claimed)
    await store.delete(STATE.session_id, fence=claimed.fence)
    with pytest.raises(StaleOwnerError):
        await store.delete(STATE.session_id, fence=old)


async def test_an_id_may_be_used_again_and_its_fence_goes_on_rising(store: SessionStore) -> None:
    first = await store.create(STATE, owner="a", ttl_s=LONG)
    await store.delete(STATE.session_id, fence=first)
    again = replace(STATE, next_seq=8, tail="again")
    second = await store.create(again, owner="b", ttl_s=LONG)
    assert second > first
    with pytest.raises(StaleOwnerError):
        await store.save(STATE, fence=first, ttl_s=LONG)
    assert await store.peek(STATE.session_id) == again


async def test_a_session_that_the_store_lost_is_put_back_by_its_owner(store: SessionStore) -> None:
    with pytest.raises(UnknownSessionError):
        await store.touch(STATE.session_id, fence=5, ttl_s=LONG)
    await store.save(STATE, fence=5, ttl_s=LONG)
    assert await store.peek(STATE.session_id) == STATE
    with pytest.raises(StaleOwnerError):
        await store.save(STATE, fence=4, ttl_s=LONG)
    # A store that lost only its latest writes knows an older fence.
    await store.save(replace(STATE, next_seq=9), fence=6, ttl_s=LONG)
    with pytest.raises(StaleOwnerError):
        await store.save(STATE, fence=5, ttl_s=LONG)
    claimed = await store.claim(STATE.session_id, owner="b", ttl_s=LONG)
    assert isinstance(claimed, Claimed)
    assert claimed.fence > 6


@pytest.mark.parametrize("session_id", ["", " ", "a b", "a\n", "a\0", "x" * 129])
async def test_ids_that_not_every_backend_can_hold_are_refused(store: SessionStore, session_id: str) -> None:
    with pytest.raises(ValueError, match="session_id"):
        await store.create(replace(STATE, session_id=session_id), owner="a", ttl_s=LONG)


async def test_a_token_instead_of_its_hash_is_refused(store: SessionStore) -> None:
    with pytest.raises(ValueError, match="token_hash"):
        await store.create(replace(STATE, token_hash=b"the token"), owner="a", ttl_s=LONG)


async def test_ids_are_told_apart_to_the_letter(store: SessionStore) -> None:
    for number, session_id in enumerate(("abc", "ABC", "äbc", "abc.", "ab")):
        await store.create(replace(STATE, session_id=session_id, next_seq=number), owner="a", ttl_s=LONG)
    for number, session_id in enumerate(("abc", "ABC", "äbc", "abc.", "ab")):
        state = await store.peek(session_id)
        assert isinstance(state, SessionState)
        assert state.next_seq == number


async def test_nothing_secret_shows(store: SessionStore) -> None:
    await store.create(STATE, owner="a", ttl_s=LONG)
    claimed = await store.claim(STATE.session_id, owner="b", ttl_s=LONG)
    shown = f"{store!r} {store} {claimed!r} {Expired(HASH)!r}"
    for secret in ("p@ss", "p%40ss", "w0rd", HASH.hex(), repr(HASH), STATE.tail):
        assert secret not in shown


async def test_publishing_never_hurts(store: SessionStore) -> None:
    await store.publish_partial("never", "text", 0)
    await store.publish_final("never", Final(0, "Text.", 0.0, 1.0, "en", 0.5, True))
    await store.ping()
