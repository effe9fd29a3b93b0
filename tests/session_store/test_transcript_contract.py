"""What every transcript store does alike."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from session_store import sql
from session_store.base import Final, StoreError, TranscriptStore, UnknownSessionError
from tests.session_store.conftest import SQL_SERVERS

pytestmark = pytest.mark.parametrize("transcript_url", ["memory", "sqlite", *SQL_SERVERS], indirect=True)

FINAL = Final(0, "It's 5 % — naïve, 你好, నమస్తే, 😀.", 0.25, 1.125, "en", 0.875, True)


async def opened(transcripts: TranscriptStore, session_id: str = "s", key_id: str = "k") -> None:
    await transcripts.open_session(session_id, label="a label 😀", language="en", key_id=key_id)


async def test_a_final_is_read_back_whole(transcripts: TranscriptStore) -> None:
    await opened(transcripts)
    await transcripts.append("s", FINAL)
    await transcripts.append("s", replace(FINAL, seq=1, text="", punctuated=False, confidence=0.0))
    assert await transcripts.finals("s") == [
        FINAL,
        replace(FINAL, seq=1, text="", punctuated=False, confidence=0.0),
    ]


async def test_finals_come_in_order_and_after_a_seq(transcripts: TranscriptStore) -> None:
    await opened(transcripts)
    for seq in (2, 0, 11, 1):
        await transcripts.append("s", replace(FINAL, seq=seq))
    assert [final.seq for final in await transcripts.finals("s")] == [0, 1, 2, 11]
    assert [final.seq for final in await transcripts.finals("s", after=1)] == [2, 11]
    assert await transcripts.finals("s", after=11) == []
    assert await transcripts.finals("unknown") == []


async def test_the_last_final_is_that_of_the_highest_seq(transcripts: TranscriptStore) -> None:
    await opened(transcripts)
    await opened(transcripts, "other")
    assert await transcripts.last_final("s") is None
    for seq in (2, 0, 11, 1):
        await transcripts.append("s", replace(FINAL, seq=seq, text=f"number {seq}"))
    await transcripts.append("other", replace(FINAL, seq=12))
    assert await transcripts.last_final("s") == replace(FINAL, seq=11, text="number 11")
    assert await transcripts.last_final("unknown") is None


async def test_a_final_never_changes(transcripts: TranscriptStore) -> None:
    await opened(transcripts)
    await transcripts.append("s", FINAL)
    await transcripts.append("s", FINAL)
    await transcripts.append("s", replace(FINAL, text="something else", language="fr"))
    assert await transcripts.finals("s") == [FINAL]


async def test_the_same_final_from_many_sides_is_stored_once(transcripts: TranscriptStore) -> None:
    await opened(transcripts)
    await asyncio.gather(*(transcripts.append("s", replace(FINAL, seq=n % 4)) for n in range(24)))
    assert [final.seq for final in await transcripts.finals("s")] == [0, 1, 2, 3]


async def test_finals_of_many_sessions_at_once(transcripts: TranscriptStore) -> None:
    for session_id in "abc":
        await opened(transcripts, session_id)
    some = [replace(FINAL, seq=seq, end=seq + 0.1, confidence=1 / (seq + 3)) for seq in range(9)]
    wanted = [(name, final) for final in some for name in "abc"]
    calls = [transcripts.append(name, final) for name, final in [*wanted, *wanted[::2], ("x", FINAL), ("a ", FINAL)]]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)

    assert set(map(type, outcomes[:-2])) == {type(None)}
    assert set(map(type, outcomes[-2:])) == {UnknownSessionError}
    for session_id in "abc":
        assert await transcripts.finals(session_id) == some
    assert {(summary.finals, summary.audio_seconds) for summary in await transcripts.sessions()} == {(9, 8.1)}


async def test_a_final_of_an_unknown_session_is_refused(transcripts: TranscriptStore) -> None:
    with pytest.raises(UnknownSessionError):
        await transcripts.append("never", FINAL)
    with pytest.raises(UnknownSessionError):
        await transcripts.end_session("never", audio_seconds=1.0)


async def test_long_texts(transcripts: TranscriptStore) -> None:
    await opened(transcripts)
    long = replace(FINAL, text="wörd 😀 " * 50_000)
    await transcripts.append("s", long)
    assert await transcripts.finals("s") == [long]


async def test_what_no_server_could_hold_does_not_block_a_final(transcripts: TranscriptStore) -> None:
    await transcripts.open_session("s", label="a\0b" + "x" * 100_000, language="en" * 100, key_id="")
    await transcripts.append("s", replace(FINAL, text="one\0two \ud800three", language="x" * 100))
    (final,) = await transcripts.finals("s")
    assert final.text == "onetwo ?three"


async def test_a_session_has_one_line(transcripts: TranscriptStore) -> None:
    await opened(transcripts)
    await opened(transcripts)
    await transcripts.append("s", FINAL)
    await transcripts.append("s", replace(FINAL, seq=1, start=2.0, end=3.5))
    await transcripts.append("s", replace(FINAL, seq=1, start=2.0, end=3.5))
    summary = await transcripts.session("s")
    assert summary is not None
    assert (summary.label, summary.language, summary.finals) == ("a label 😀", "en", 2)
    assert summary.audio_seconds == 3.5
    assert not summary.ended
    assert summary.created_at <= summary.updated_at
    await transcripts.end_session("s", audio_seconds=4.25)
    summary = await transcripts.session("s")
    assert summary is not None
    assert summary.ended
    assert summary.audio_seconds == 4.25
    assert await transcripts.session("unknown") is None
    assert list(await transcripts.sessions()) == [summary]


async def test_opening_again_changes_nothing(transcripts: TranscriptStore) -> None:
    await opened(transcripts, key_id="k1")
    before = await transcripts.session("s")
    await transcripts.open_session("s", label="other", language="fr", key_id="k2")
    assert await transcripts.session("s") == before
    assert await transcripts.owner("s") == "k1"


async def test_sessions_are_listed_newest_first_and_by_key(transcripts: TranscriptStore) -> None:
    for number in range(6):
        await opened(transcripts, f"s{number}", key_id=f"k{number % 2}")
    everything = [summary.session_id for summary in await transcripts.sessions()]
    assert sorted(everything) == [f"s{number}" for number in range(6)]
    times = [summary.created_at for summary in await transcripts.sessions()]
    assert times == sorted(times, reverse=True)
    assert {summary.session_id for summary in await transcripts.sessions(key_id="k1")} == {"s1", "s3", "s5"}
    assert await transcripts.sessions(key_id="K1") == []
    assert [summary.session_id for summary in await transcripts.sessions(limit=2)] == everything[:2]


async def test_ids_are_told_apart_to_the_letter(transcripts: TranscriptStore) -> None:
    for number, session_id in enumerate(("abc", "ABC", "äbc", "abc.")):
        await opened(transcripts, session_id, key_id=f"k{number}")
        await transcripts.append(session_id, replace(FINAL, text=session_id))
    for number, session_id in enumerate(("abc", "ABC", "äbc", "abc.")):
        assert await transcripts.owner(session_id) == f"k{number}"
        assert [final.text for final in await transcripts.finals(session_id)] == [session_id]
    assert await transcripts.owner("abc ") is None
    assert await transcripts.owner("Äbc") is None


@pytest.mark.parametrize("session_id", ["", "a b", "a ", "a\0", "x" * 129])
async def test_ids_that_not_every_server_can_hold_are_refused(transcripts: TranscriptStore, session_id: str) -> None:
    with pytest.raises(ValueError, match="session_id"):
        await opened(transcripts, session_id)


async def test_deleting_takes_the_finals_along(transcripts: TranscriptStore) -> None:
    for session_id in ("s", "other"):
        await opened(transcripts, session_id)
        await transcripts.append(session_id, FINAL)
    assert await transcripts.delete_session("s")
    assert not await transcripts.delete_session("s")
    assert await transcripts.finals("s") == []
    assert await transcripts.session("s") is None
    assert await transcripts.owner("s") is None
    with pytest.raises(UnknownSessionError):
        await transcripts.append("s", FINAL)
    assert await transcripts.finals("other") == [FINAL]
    await opened(transcripts, "s")
    assert await transcripts.finals("s") == []


async def test_purge_goes_by_the_last_change(transcripts: TranscriptStore) -> None:
    await opened(transcripts, "old")
    await transcripts.append("old", FINAL)
    await opened(transcripts, "young")
    old = await transcripts.session("old")
    assert old is not None
    # Waits for the store's own clock: the young one's change must be later than the old one's.
    async with asyncio.timeout(20):
        while True:
            await transcripts.append("young", FINAL)
            young = await transcripts.session("young")
            assert young is not None
            if young.updated_at > old.updated_at + 0.5:
                break
            await asyncio.sleep(0.05)
    assert await transcripts.purge(older_than_s=3600) == 0
    # Everything at all is younger than minus one hour.
    assert await transcripts.purge(older_than_s=0.4) in (1, 2)
    assert await transcripts.session("old") is None
    assert await transcripts.finals("old") == []


async def test_purge_of_more_than_a_batch(transcripts: TranscriptStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "_PURGE_BATCH", 7)
    await asyncio.gather(*(opened(transcripts, f"s{number}") for number in range(23)))
    assert await transcripts.purge(older_than_s=-3600) == 23
    assert await transcripts.sessions() == []


async def test_purge_spares_what_is_still_alive(transcripts: TranscriptStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "_PURGE_BATCH", 4)
    for number in range(11):
        await opened(transcripts, f"s{number}")
        await transcripts.append(f"s{number}", FINAL)
    alive = {"s0", "s1", "s2", "s5", "s9"}
    asked: list[str] = []

    async def spare(session_ids: Sequence[str]) -> set[str]:
        asked.extend(session_ids)
        return alive.intersection(session_ids)

    assert await transcripts.purge(older_than_s=3600, spare=spare) == 0
    assert not asked
    assert await transcripts.purge(older_than_s=-3600, spare=spare) == 6
    assert sorted(asked) == sorted(f"s{number}" for number in range(11))
    assert {summary.session_id for summary in await transcripts.sessions()} == alive
    assert await transcripts.finals("s9") == [FINAL]

    async def out_of_reach(session_ids: Sequence[str]) -> set[str]:
        raise StoreError("away")

    with pytest.raises(StoreError):
        await transcripts.purge(older_than_s=-3600, spare=out_of_reach)
    assert len(await transcripts.sessions()) == len(alive)


async def test_ping(transcripts: TranscriptStore) -> None:
    await transcripts.ping()
