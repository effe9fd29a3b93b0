"""Audio of a key in a day, as one process and several count it."""

from __future__ import annotations

import pytest

from server.protocol.close import CloseCode, Closing
from server.quota import AudioQuota, Identity
from session_store.base import StoreError
from session_store.memory import MemorySessionStore

FREE = Identity("key-1")
LIMITED = Identity("key-1", max_audio_s=10)
DAY = 86400.0


class Store(MemorySessionStore):
    """Counts calls, and is away when told so."""

    def __init__(self) -> None:
        self.today = 5 * DAY
        super().__init__(date=lambda: self.today)
        self.calls = 0
        self.is_away = False

    async def add_usage(self, key_id: str, seconds: float) -> float:
        self.calls += 1
        if self.is_away:
            raise StoreError("away")
        return await super().add_usage(key_id, seconds)


async def test_a_key_without_limit_costs_nothing() -> None:
    store = Store()
    quota = AudioQuota(store)
    for identity in (FREE, Identity()):
        await quota.admit(identity)
        quota.count(identity, 1e9)
    await quota.report()
    assert store.calls == 0


async def test_the_limit_is_exact_within_a_process() -> None:
    quota = AudioQuota(Store())
    await quota.admit(LIMITED)
    for _ in range(9):
        quota.count(LIMITED, 1)
    await quota.report()
    quota.count(LIMITED, 0.99)
    with pytest.raises(Closing) as closing:
        quota.count(LIMITED, 0.01)
    assert closing.value.code is CloseCode.REVOKED
    assert "UTC" in closing.value.message
    with pytest.raises(Closing):
        await quota.admit(LIMITED)
    await quota.admit(Identity("key-2", max_audio_s=10))


async def test_processes_learn_of_each_other() -> None:
    store = Store()
    here, there = AudioQuota(store), AudioQuota(store)
    await here.admit(LIMITED)
    there.count(LIMITED, 6)
    here.count(LIMITED, 5)
    await there.report()
    await here.report()
    with pytest.raises(Closing):
        here.count(LIMITED, 0)
    with pytest.raises(Closing):
        await there.admit(LIMITED)


async def test_a_new_day_begins_anew() -> None:
    store = Store()
    quota = AudioQuota(store)
    with pytest.raises(Closing):
        quota.count(LIMITED, 11)
    await quota.report()
    with pytest.raises(Closing):
        await quota.admit(LIMITED)
    store.today += DAY
    await quota.admit(LIMITED)
    quota.count(LIMITED, 9)


async def test_while_the_store_is_away_nothing_is_forgotten_and_nobody_stopped() -> None:
    store = Store()
    store.is_away = True
    quota = AudioQuota(store)
    await quota.admit(LIMITED)
    quota.count(LIMITED, 6)
    await quota.report()
    with pytest.raises(Closing):
        quota.count(LIMITED, 4)
    store.is_away = False
    await quota.report()
    assert await store.add_usage("key-1", 0) == 10
    await quota.report()
    assert await store.add_usage("key-1", 0) == 10
