from __future__ import annotations

import asyncio

import pytest

from server.outbox import Outbox
from server.protocol.close import CloseCode, Closing
from server.session.commands import Send
from server.session.messages import Ack, Done, Finalized, Message, Partial, SpeechEnded, SpeechStarted
from session_store.base import Final

DEADLINE = 10


def partial(text: str, seq: int = 0) -> Partial:
    return Partial(text, "en", seq, 0.0, 1.0, 0)


def final(seq: int = 0) -> Final:
    return Final(seq, f"final {seq}", 0.0, 1.0, "en", 0.9, True)


async def get(outbox: Outbox) -> Message:
    async with asyncio.timeout(DEADLINE):
        return (await outbox.get()).message


async def drain(outbox: Outbox) -> list[Message]:
    """What is waiting, up to the close that is put behind it."""
    outbox.close(Closing(CloseCode.NORMAL, ""))
    messages = []
    try:
        while True:
            messages.append(await get(outbox))
    except Closing:
        return messages


async def test_messages_come_in_order_with_their_clocks() -> None:
    outbox = Outbox(8)
    outbox.put(SpeechStarted(1.0))
    outbox.put(final(), since=3.5)
    assert await outbox.get() == Send(SpeechStarted(1.0))
    assert await outbox.get() == Send(final(), 3.5)


async def test_the_first_partials_clock_goes_on_with_the_one_that_replaces_it() -> None:
    outbox = Outbox(8)
    outbox.put(partial("a"), since=1.0, speech_since=0.5)
    outbox.put(partial("a b"), since=2.0)
    assert await outbox.get() == Send(partial("a b"), 2.0, 0.5)
    outbox.put(partial("a b c"), since=3.0)
    assert await outbox.get() == Send(partial("a b c"), 3.0)


async def test_get_waits_for_a_message() -> None:
    outbox = Outbox(8)
    waiting = asyncio.create_task(get(outbox))
    await asyncio.sleep(0)
    assert not waiting.done()
    outbox.put(partial("a"))
    assert await waiting == partial("a")


async def test_partials_and_acks_collapse_to_the_newest() -> None:
    outbox = Outbox(8)
    for number in range(100):
        outbox.put(partial(str(number)))
        outbox.put(Ack(number))
    assert await get(outbox) == partial("99")
    assert await get(outbox) == Ack(99)


async def test_an_ack_does_not_overtake_its_final() -> None:
    outbox = Outbox(8)
    outbox.put(Ack(1))
    outbox.put(final())
    outbox.put(Ack(2))
    assert [await get(outbox), await get(outbox)] == [final(), Ack(2)]


@pytest.mark.parametrize("message", [final(), SpeechEnded(1.0)])
async def test_a_partial_is_of_no_use_behind_the_end_of_its_segment(message: Message) -> None:
    outbox = Outbox(8)
    outbox.put(partial("a"))
    outbox.put(message)
    outbox.put(Ack(1))
    assert [await get(outbox), await get(outbox)] == [message, Ack(1)]


async def test_a_final_leaves_the_partial_of_the_next_segment() -> None:
    """A final that was long in coming finds the next segment on the screen already."""
    outbox = Outbox(8)
    outbox.put(partial("next", seq=1))
    outbox.put(final(0))
    assert [await get(outbox), await get(outbox)] == [final(0), partial("next", seq=1)]


@pytest.mark.parametrize("message", [Finalized("x", 5), Done(5, 0, 1.0)])
async def test_what_was_said_before_an_answer_stays_before_it(message: Message) -> None:
    outbox = Outbox(8)
    outbox.put(partial(""))
    outbox.put(Ack(5))
    outbox.put(message)
    assert [await get(outbox) for _ in range(3)] == [partial(""), Ack(5), message]


async def test_a_final_is_sent_once() -> None:
    outbox = Outbox(8)
    outbox.put(final(0))
    outbox.put(final(0))
    outbox.put(final(1))
    outbox.put(partial("late", seq=1))
    assert await drain(outbox) == [final(0), final(1)]


async def test_what_is_held_comes_behind_what_is_released_first() -> None:
    outbox = Outbox(8)
    outbox.hold()
    outbox.put(final(3))
    outbox.put(final(4))
    outbox.put(partial("new", seq=5))
    waiting = asyncio.create_task(get(outbox))
    await asyncio.sleep(0)
    assert not waiting.done()
    outbox.release([Send(SpeechStarted(0.0)), Send(final(2)), Send(final(3))], last_seq=3)
    assert await waiting == SpeechStarted(0.0)
    assert [await get(outbox) for _ in range(4)] == [final(2), final(3), final(4), partial("new", seq=5)]


async def test_finals_that_were_released_are_not_sent_again() -> None:
    outbox = Outbox(8)
    outbox.hold()
    outbox.put(partial("old", seq=3))
    outbox.release([Send(final(3))], last_seq=3)
    outbox.put(final(3))
    outbox.put(final(4))
    assert await drain(outbox) == [final(3), final(4)]


async def test_nothing_that_is_held_is_sent_before_a_close() -> None:
    outbox = Outbox(8)
    outbox.hold()
    outbox.put(final(3))
    assert await drain(outbox) == []


async def test_a_partial_of_a_final_that_was_released_is_of_no_use() -> None:
    outbox = Outbox(8)
    outbox.hold()
    outbox.put(partial("old", seq=3))
    outbox.release([Send(final(3))], last_seq=3)
    outbox.put(Ack(1))
    assert [await get(outbox), await get(outbox)] == [final(3), Ack(1)]


async def test_more_than_the_limit_closes_the_connection() -> None:
    outbox = Outbox(4)
    for seq in range(4):
        outbox.put(final(seq))
    assert outbox.closing is None
    outbox.put(final(4))
    with pytest.raises(Closing, match="4 messages wait to be read: read faster") as caught:
        await get(outbox)
    assert caught.value.code is CloseCode.NOT_READING
    outbox.put(final(5))
    with pytest.raises(Closing):
        await get(outbox)


async def test_a_client_that_reads_never_meets_the_limit() -> None:
    outbox = Outbox(2)
    for seq in range(100):
        outbox.put(final(seq))
        assert await get(outbox) == final(seq)
    assert outbox.closing is None


async def test_close_lets_out_what_waits_but_for_partials() -> None:
    outbox = Outbox(8)
    outbox.put(final())
    outbox.put(partial("a", seq=1))
    outbox.close(Closing(CloseCode.DRAINING, "first"))
    outbox.close(Closing(CloseCode.INTERNAL, "second"))
    outbox.put(final(1))
    assert await get(outbox) == final()
    with pytest.raises(Closing, match="first"):
        await get(outbox)


async def test_close_ends_a_hold_and_wakes_the_reader() -> None:
    outbox = Outbox(8)
    outbox.hold()
    waiting = asyncio.create_task(get(outbox))
    await asyncio.sleep(0)
    outbox.close(Closing(CloseCode.TAKEN_OVER, "taken"))
    with pytest.raises(Closing, match="taken"):
        await waiting
