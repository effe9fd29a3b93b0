"""Several gateways at one store."""

# The event loop has nothing else to do while a test makes files and processes.

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from session_store.base import Claimed, SessionState, StaleOwnerError
from session_store.factory import open_session_store, sqlite_url
from tests.session_store.conftest import REDIS, Opener

STATE = SessionState("session-1", hashlib.sha256(b"token").digest(), tail="tail")
LONG = 3600.0

shared = pytest.mark.parametrize("session_url", ["sqlite", REDIS], indirect=True)


@shared
async def test_of_many_claimers_only_the_last_can_write(opener: Opener) -> None:
    gateways = [opener() for _ in range(8)]
    await gateways[0].create(STATE, owner="0", ttl_s=LONG)
    claims = await asyncio.gather(
        *(gateway.claim("session-1", owner=f"{n}-{k}", ttl_s=LONG) for n, gateway in enumerate(gateways) for k in "ab")
    )
    fences = [claim.fence for claim in claims if isinstance(claim, Claimed)]
    assert len(fences) == len(set(fences)) == 16
    newest = max(fences)

    async def save(number: int, fence: int) -> bool:
        try:
            await gateways[number % 8].save(replace(STATE, next_seq=fence), fence=fence, ttl_s=LONG)
        except StaleOwnerError:
            return False
        return True

    wrote = await asyncio.gather(*(save(number, fence) for number, fence in enumerate(fences)))
    assert [fence for fence, done in zip(fences, wrote, strict=True) if done] == [newest]
    assert await gateways[3].peek("session-1") == replace(STATE, next_seq=newest)


@shared
async def test_claims_and_saves_interleaved_lose_no_write_of_the_newest_owner(opener: Opener) -> None:
    """Each new owner goes on from what it was given; a counter that all raise shows any lost or foreign write."""
    gateways = [opener() for _ in range(4)]
    await gateways[0].create(STATE, owner="0", ttl_s=LONG)

    async def own(number: int) -> int:
        raised = 0
        for _ in range(10):
            claim = await gateways[number].claim("session-1", owner=str(number), ttl_s=LONG)
            assert isinstance(claim, Claimed)
            state = claim.state
            try:
                for _ in range(3):
                    state = replace(state, next_seq=state.next_seq + 1)
                    await gateways[number].save(state, fence=claim.fence, ttl_s=LONG)
                    raised += 1
            except StaleOwnerError:
                pass
        return raised

    total = sum(await asyncio.gather(*(own(number) for number in range(4))))
    final = await gateways[0].peek("session-1")
    assert isinstance(final, SessionState)
    assert final.next_seq == total


@shared
async def test_each_expired_session_is_closed_out_by_one_gateway(opener: Opener) -> None:
    gateways = [opener() for _ in range(4)]
    for number in range(40):
        await gateways[0].create(replace(STATE, session_id=f"s{number}"), owner="a", ttl_s=0.001)
    given: Counter[str] = Counter()
    async with asyncio.timeout(20):
        while len(given) < 40:
            for states in await asyncio.gather(*(gateway.expired(7) for gateway in gateways)):
                given.update(state.session_id for state in states)
    for states in await asyncio.gather(*(gateway.expired(100) for gateway in gateways)):
        given.update(state.session_id for state in states)
    assert given == Counter({f"s{number}": 1 for number in range(40)})


_CLAIMER = """
import asyncio, sys
from dataclasses import replace
from session_store.base import Claimed, StaleOwnerError
from session_store.factory import open_session_store

async def main(url, name):
    store = open_session_store(url, deadline_s=30)
    raised = 0
    for _ in range(25):
        claim = await store.claim("session-1", owner=name, ttl_s=3600)
        assert isinstance(claim, Claimed)
        state = replace(claim.state, next_seq=claim.state.next_seq + 1)
        try:
            await store.save(state, fence=claim.fence, ttl_s=3600)
            raised += 1
        except StaleOwnerError:
            pass
    await store.close()
    print(raised)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_processes_share_one_sqlite_file(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "sessions.sqlite")
    # Not even the file is there yet: all of them make it.
    processes = [
        subprocess.Popen([sys.executable, "-c", _CREATOR, url, name], stdout=subprocess.PIPE, text=True)
        for name in ("a", "b", "c")
    ]
    assert sorted(process.communicate(timeout=60)[0].strip() for process in processes) == ["exists", "exists", "made"]
    processes = [
        subprocess.Popen([sys.executable, "-c", _CLAIMER, url, name], stdout=subprocess.PIPE, text=True)
        for name in ("a", "b", "c")
    ]
    raised = [int(process.communicate(timeout=60)[0]) for process in processes]
    store = open_session_store(url)
    state = await store.peek("session-1")
    await store.close()
    assert isinstance(state, SessionState)
    assert state.next_seq == sum(raised)


_CREATOR = """
import asyncio, sys
from session_store.base import SessionExistsError, SessionState
from session_store.factory import open_session_store

async def main(url, name):
    store = open_session_store(url, deadline_s=30)
    try:
        await store.create(SessionState("session-1", bytes(32)), owner=name, ttl_s=3600)
        print("made")
    except SessionExistsError:
        print("exists")
    await store.close()

asyncio.run(main(*sys.argv[1:]))
"""
