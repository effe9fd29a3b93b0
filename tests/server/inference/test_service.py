"""The whole of inference over scripted clients, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

import pytest

from server.inference.errors import InferenceError
from server.inference.observer import NullObserver
from server.inference.service import Inference
from tests.server.inference.scripted import (
    DEAD,
    FAILED,
    GONE,
    LATE,
    REFUSED,
    Network,
    ScriptedClient,
    Source,
    settings,
    settle,
    window,
)
from tests.server.inference.virtual_time import run_virtually


def virtually(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        run_virtually(test(*args, **kwargs))

    return run


class Noting(NullObserver):
    def __init__(self) -> None:
        self.done: list[tuple[str, str, float, str]] = []

    def request_done(self, model: str, kind: str, seconds: float, outcome: str) -> None:
        if kind != "probe":
            self.done.append((model, kind, round(seconds, 6), outcome))


@asynccontextmanager
async def running(
    *addresses: str, limit: int = 2, observer: Noting | None = None, **others: object
) -> AsyncIterator[tuple[Inference, list[ScriptedClient]]]:
    network = Network(*addresses)
    chosen = settings(*addresses, limit=limit, **others)
    clock = asyncio.get_running_loop().time
    inference = Inference(chosen, clock=clock, observer=observer, connect=network.connect)
    try:
        await inference.start()
        yield inference, list(network.clients.values())
    finally:
        await inference.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert all(client.is_closed and not client.calls for client in network.clients.values())


@virtually
async def test_a_final_is_answered() -> None:
    async with running() as (inference, (triton,)):
        source = Source()
        inference.decode(source, window(5, 3200))
        await settle()
        triton.call(3200).answer()
        await source.answered(1)
        assert source.answers == [(5, "3200 samples")]


@virtually
async def test_no_more_than_the_limit_is_in_flight_and_the_oldest_goes_first() -> None:
    async with running(limit=2) as (inference, (triton,)):
        for n in range(5):
            inference.decode(Source(), window(1, 3200 + n))
            await asyncio.sleep(0.01)
        assert triton.windows() == [3200, 3201]
        triton.call(3201).answer()
        await settle()
        assert triton.windows() == [3200, 3202]


@virtually
async def test_the_limit_holds_for_each_triton() -> None:
    async with running("one", "two", limit=2) as (inference, tritons):
        for n in range(7):
            inference.decode(Source(), window(1, 3200 + n))
        await settle()
        assert [len(triton.calls) for triton in tritons] == [2, 2]


@virtually
async def test_ranks_decide_among_what_is_wanted_at_once() -> None:
    async with running(limit=1) as (inference, (triton,)):
        late, early = Source(), Source()
        early.samples = 2000
        inference.want_partial(late, 5.0, "en")
        inference.want_partial(early, 3.0, "en")
        final = Source()
        inference.decode(final, window(1, 3200))
        await settle()
        assert triton.windows() == [3200]
        triton.call(3200).answer()
        await settle()
        assert triton.windows() == [2001]


@virtually
async def test_the_newest_window_is_sent() -> None:
    async with running(limit=1) as (inference, (triton,)):
        inference.decode(Source(), window(1, 3200))
        source = Source()
        await settle()
        inference.want_partial(source, 1.0, "en")
        await settle()
        source.samples = 5000
        triton.call(3200).answer()
        await settle()
        assert triton.windows() == [5001]


@virtually
async def test_a_partial_at_triton_goes_on_beside_its_sources_final_until_that_is_cancelled() -> None:
    async with running(limit=2) as (inference, (triton,)):
        source = Source()
        inference.want_partial(source, 1.0, "en")
        await settle()
        partial = triton.calls[0]
        inference.decode(source, window(5, 3200))
        await settle()
        assert triton.windows() == [partial.asked.samples, 3200]
        inference.cancel(source, 1001)
        await settle()
        assert partial.result.cancelled()
        triton.call(3200).answer()
        await source.answered(1)
        assert source.answers == [(5, "3200 samples")]
        assert source.failures == []


@virtually
async def test_what_is_cancelled_is_not_answered_even_if_the_answer_is_there_already() -> None:
    async with running() as (inference, (triton,)):
        source = Source()
        inference.decode(source, window(5, 3200))
        await settle()
        triton.call(3200).answer()
        inference.cancel(source, 5)
        inference.cancel(source, 5)
        await settle()
        assert (source.answers, source.failures) == ([], [])
        assert triton.calls == []


@virtually
async def test_a_source_that_is_gone_hears_nothing_and_frees_its_room() -> None:
    async with running(limit=1) as (inference, (triton,)):
        gone, other = Source(), Source()
        for job in (1, 2):
            inference.decode(gone, window(job, 3200))
        inference.decode(other, window(1, 4000))
        await settle()
        inference.forget(gone)
        await settle()
        assert triton.windows() == [4000]
        triton.call(4000).answer()
        await other.answered(1)
        assert (gone.answers, gone.failures) == ([], [])


@virtually
async def test_a_dropped_partial_is_neither_sent_nor_answered() -> None:
    async with running(limit=1) as (inference, (triton,)):
        waiting, sent = Source(), Source()
        inference.want_partial(sent, 1.0, "en")
        inference.want_partial(waiting, 2.0, "en")
        await settle()
        inference.drop_partial(waiting)
        inference.drop_partial(sent)
        await settle()
        assert triton.calls == []
        assert waiting.taken == []
        assert sent.answers == sent.failures == []


@virtually
async def test_a_partial_that_fails_is_not_tried_again() -> None:
    async with running() as (inference, (triton,)):
        source = Source()
        inference.want_partial(source, 1.0, "en")
        await settle()
        triton.calls[0].fail(FAILED)
        await source.answered(1)
        assert source.failures == [(1001, FAILED.reason)]
        await asyncio.sleep(5)
        assert triton.calls == []


@virtually
async def test_a_partial_is_given_up_after_its_time() -> None:
    async with running(partial_timeout_s=2.0) as (inference, _):
        source = Source()
        begun = asyncio.get_running_loop().time()
        inference.want_partial(source, 1.0, "en")
        await source.answered(1)
        assert source.failures == [(1001, LATE.reason)]
        assert asyncio.get_running_loop().time() - begun == pytest.approx(2.0)


@virtually
async def test_a_window_that_is_refused_fails_at_once() -> None:
    async with running() as (inference, (triton,)):
        source = Source()
        inference.decode(source, window(5))
        await settle()
        triton.calls[0].fail(REFUSED)
        await settle()
        assert source.failures == [(5, REFUSED.reason)]
        assert inference.is_up("en")


@pytest.mark.parametrize("error", [FAILED, LATE, GONE, DEAD])
@virtually
async def test_a_final_is_tried_again(error: InferenceError) -> None:
    async with running() as (inference, (triton,)):
        source = Source()
        inference.decode(source, window(5))
        for _ in range(3):
            await asyncio.sleep(3)
            triton.calls[0].fail(error)
        await asyncio.sleep(3)
        triton.calls[0].answer()
        await source.answered(1)
        assert source.answers == [(5, "3200 samples")]
        assert source.failures == []


@virtually
async def test_a_slow_model_gets_more_time_for_each_try() -> None:
    async with running(final_timeout_s=5.0, final_deadline_s=60.0) as (inference, (triton,)):
        triton.seconds = 18.0
        source = Source()
        begun = asyncio.get_running_loop().time()
        inference.decode(source, window(5))
        await source.answered(1, timeout_s=90)
        assert source.answers == [(5, "3200 samples")]
        assert 5 + 10 + 18 <= asyncio.get_running_loop().time() - begun < 5 + 10 + 18 + 2


@virtually
async def test_a_cancelled_window_whose_call_has_just_ended() -> None:
    async with running() as (inference, (triton,)):
        source = Source()

        def cancel(client: ScriptedClient, asked: object) -> None:
            # Runs after the call's last step and before anyone is told that it has ended.
            asyncio.get_running_loop().call_soon(inference.cancel, source, 5)
            raise REFUSED

        triton.on_infer = cancel
        inference.decode(source, window(5))
        await settle()
        assert source.answers == source.failures == []


@virtually
async def test_a_final_goes_to_another_triton_at_once() -> None:
    async with running("one", "two") as (inference, (one, two)):
        source = Source()
        inference.decode(source, window(5))
        await settle()
        (first,) = (triton for triton in (one, two) if triton.calls)
        first.calls[0].fail(FAILED)
        await settle()
        (second,) = (triton for triton in (one, two) if triton.calls)
        assert second is not first


@virtually
async def test_a_window_that_the_model_cannot_stand_fails_in_the_end() -> None:
    async with running(final_errors=3) as (inference, (triton,)):
        source = Source()
        triton.on_infer = lambda client, asked: (_ for _ in ()).throw(FAILED)
        inference.decode(source, window(5))
        await source.answered(1, timeout_s=30)
        assert source.failures == [(5, FAILED.reason)]


@virtually
async def test_a_final_fails_at_its_deadline() -> None:
    async with running(final_deadline_s=30.0, final_timeout_s=8.0) as (inference, _):
        source = Source()
        begun = asyncio.get_running_loop().time()
        inference.decode(source, window(5))
        await source.answered(1, timeout_s=100)
        ((job, reason),) = source.failures
        assert (job, "asr gave no answer in" in reason) == (5, True)
        assert 30 <= asyncio.get_running_loop().time() - begun < 30 + 8 + 3


@virtually
async def test_time_without_any_triton_does_not_count_against_a_final() -> None:
    async with running(final_deadline_s=30.0) as (inference, (triton,)):
        triton.is_alive = False
        source = Source()
        inference.decode(source, window(5))
        await asyncio.sleep(120)
        assert source.failures == []
        assert inference.final_delay == pytest.approx(120)
        triton.is_alive = True
        triton.seconds = 0.1
        await source.answered(1)
        assert source.answers == [(5, "3200 samples")]


@virtually
async def test_but_there_is_an_end_to_that_too() -> None:
    async with running(final_deadline_s=30.0, outage_deadline_s=100.0) as (inference, (triton,)):
        triton.is_alive = False
        source = Source()
        inference.decode(source, window(5))
        await source.answered(1, timeout_s=110)
        assert source.answers == []


@virtually
async def test_nothing_is_sent_while_nobody_is_there() -> None:
    async with running() as (inference, (triton,)):
        triton.is_alive = False
        await asyncio.sleep(3)
        source = Source()
        inference.want_partial(source, 1.0, "en")
        await asyncio.sleep(30)
        assert source.taken == []
        triton.is_alive = True
        await asyncio.sleep(5)
        assert source.taken == [1001]


@virtually
async def test_calls_at_a_triton_that_hangs_are_taken_back() -> None:
    async with running("one", "two", limit=2, partial_timeout_s=9.0) as (inference, tritons):
        partial, final = Source(), Source()
        inference.decode(final, window(5))
        inference.want_partial(partial, 1.0, "en")
        await settle()
        by_length = {triton.calls[0].asked.samples: triton for triton in tritons}
        assert len(by_length) == 2
        by_length[3200].hangs = True
        await asyncio.sleep(2)
        assert by_length[1601].windows() == [1601, 3200]
        by_length[1601].hangs = True
        await partial.answered(1)
        assert partial.failures == [(1001, "the model is out of reach")]


@virtually
async def test_a_language_goes_to_its_model() -> None:
    async with running() as (inference, (triton,)):
        for n, language in enumerate(["en", "es", "auto", "en-GB", "fr_CA", "ES"]):
            inference.decode(Source(), window(1, 3200 + n, language))
        for _ in range(6):
            await settle()
            for call in list(triton.calls):
                assert (call.asked.model == "asr") == (call.asked.samples in (3200, 3203))
                call.answer()
        assert inference.languages() == {"en", "es", "fr", "auto"}


@virtually
async def test_a_language_that_no_model_hears() -> None:
    async with running() as (inference, _):
        source = Source("te")
        inference.want_partial(source, 1.0, "te")
        inference.decode(source, window(5, language="te"))
        assert source.failures == []
        await settle()
        assert source.failures == [(5, "no model hears 'te': choose one of auto, en, es, fr")]
        assert not inference.is_up("te")


@virtually
async def test_a_partial_goes_where_its_window_belongs() -> None:
    async with running() as (inference, (triton,)):
        source = Source("es")
        inference.want_partial(source, 1.0, "en")
        await settle()
        assert [call.asked.model for call in triton.calls] == ["asr_multilingual"]


@virtually
async def test_a_source_that_raises_costs_the_others_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Source):
        def on_hypothesis(self, job: int, hypothesis: object) -> None:
            raise RuntimeError("broken")

        def on_decode_failed(self, job: int, reason: str) -> None:
            raise RuntimeError("broken")

    async with running(limit=1) as (inference, (triton,)):
        other = Source()
        inference.decode(Broken(), window(1, 3200))
        inference.decode(Broken(), window(1, 3201))
        inference.decode(other, window(1, 3202))
        await settle()
        triton.call(3200).answer()
        await settle()
        triton.call(3201).fail(REFUSED)
        await settle()
        triton.call(3202).answer()
        await other.answered(1)
    assert "failed to take its hypothesis" in caplog.text
    assert "failed to take the news of a failure" in caplog.text


@virtually
async def test_closing_answers_nobody() -> None:
    source = Source()
    async with running(limit=1) as (inference, _):
        for job in (1, 2):
            inference.decode(source, window(job))
        inference.want_partial(Source(), 1.0, "en")
        await settle()
    inference.decode(source, window(3))
    inference.want_partial(source, 1.0, "en")
    await settle()
    assert source.answers == source.failures == []
    assert not inference.health().is_healthy


@virtually
async def test_closing_without_starting() -> None:
    inference = Inference(settings())
    await inference.close()
    assert not inference.is_healthy


@virtually
async def test_the_observer_is_told() -> None:
    observer = Noting()
    async with running(observer=observer, partial_timeout_s=2.0) as (inference, (triton,)):
        source = Source()
        inference.decode(source, window(1, 3200))
        await asyncio.sleep(0.25)
        triton.call(3200).answer()
        await settle()
        inference.decode(source, window(2, 3201))
        await settle()
        inference.cancel(source, 2)
        await settle()
        inference.decode(source, window(3, 3202))
        await settle()
        triton.call(3202).fail(REFUSED)
        await settle()
        inference.want_partial(source, 1.0, "en")
        await source.answered(3)
    assert observer.done == [
        ("asr", "final", 0.25, "ok"),
        ("asr", "final", 0.0, "cancelled"),
        ("asr", "final", 0.0, "refused"),
        ("asr", "partial", 2.0, "late"),
    ]


@virtually
async def test_the_delay_of_partials_leaves_out_the_time_without_a_triton() -> None:
    async with running(limit=1) as (inference, (triton,)):
        assert inference.partial_delay == 0.0
        triton.seconds = 0.4
        source = Source()
        inference.want_partial(source, 1.0, "en")
        await source.answered(1)
        assert inference.partial_delay == pytest.approx(0.4)
        triton.is_alive = False
        inference.decode(source, window(5))
        inference.want_partial(source, 1.0, "en")
        await asyncio.sleep(10)
        triton.is_alive = True
        await source.answered(3)
        assert inference.partial_delay < 3
        triton.seconds = None
        inference.decode(source, window(6))
        inference.want_partial(source, 1.0, "en")
        await asyncio.sleep(2)
        assert inference.partial_delay == pytest.approx(2.0)
        inference.forget(source)
        await asyncio.sleep(31)
        assert inference.partial_delay == 0.0


@virtually
async def test_the_delay_of_finals() -> None:
    async with running() as (inference, (triton,)):
        assert inference.final_delay == 0.0
        triton.seconds = 0.4
        source = Source()
        inference.decode(source, window(1))
        await source.answered(1)
        assert inference.final_delay == pytest.approx(0.4)
        triton.seconds = None
        inference.decode(source, window(2))
        await asyncio.sleep(1.5)
        assert inference.final_delay == pytest.approx(1.5)
        inference.forget(source)
        assert inference.final_delay == pytest.approx(0.4)
        await asyncio.sleep(31)
        assert inference.final_delay == 0.0


@virtually
async def test_health_names_every_model_and_triton() -> None:
    async with running("one", "two", punctuation_languages=frozenset({"en"})) as (inference, (one, _)):
        one.is_alive = False
        await asyncio.sleep(3)
        inference.decode(Source(), window(1))
        await settle()
        health = inference.health()
        assert health.is_healthy
        assert [model.name for model in health.models] == ["asr", "asr_multilingual", "punctuation"]
        asr = health.models[0]
        assert (asr.is_up, asr.in_flight, asr.waiting_finals, asr.waiting_partials) == (True, 1, 0, 0)
        assert [(r.address, r.is_up, r.reason, r.in_flight) for r in asr.replicas] == [
            ("one", False, GONE.reason, 0),
            ("two", True, "", 1),
        ]


# --- punctuation


@virtually
async def test_punctuation() -> None:
    async with running(punctuation_languages=frozenset({"en"})) as (inference, (triton,)):
        triton.seconds = 0.01
        assert await inference.punctuate("hello there", "so", "en") == "Hello there."


@virtually
async def test_a_language_without_punctuation_model_keeps_its_text() -> None:
    async with running(punctuation_languages=frozenset({"en"})) as (inference, _):
        assert await inference.punctuate("Hola, ¿qué tal?", "", "es") == "Hola, ¿qué tal?"
    async with running() as (inference, _):
        assert await inference.punctuate("Hello.", "", "en") == "Hello."


@pytest.mark.parametrize("error", [FAILED, GONE, DEAD, REFUSED])
@virtually
async def test_punctuation_that_fails_gives_none(error: InferenceError) -> None:
    async with running(punctuation_languages=frozenset({"en"})) as (inference, (triton,)):
        asking = asyncio.create_task(inference.punctuate("hello", "", "en"))
        await settle()
        triton.calls[0].fail(error)
        assert await asking is None


@virtually
async def test_punctuation_gives_up_after_its_time_even_without_room() -> None:
    languages = frozenset({"en"})
    async with running(punctuation_languages=languages, punctuation_in_flight=1) as (inference, (triton,)):
        begun = asyncio.get_running_loop().time()
        texts = await asyncio.gather(*(inference.punctuate("hello", "", "en") for _ in range(3)))
        assert texts == [None] * 3
        assert asyncio.get_running_loop().time() - begun == pytest.approx(0.5)
        assert triton.calls == []


@virtually
async def test_punctuation_takes_turns() -> None:
    languages = frozenset({"en"})
    async with running(punctuation_languages=languages, punctuation_in_flight=1) as (inference, (triton,)):
        triton.seconds = 0.1
        texts = await asyncio.gather(*(inference.punctuate(f"text {n}", "", "en") for n in range(4)))
        assert texts == [f"Text {n}." for n in range(4)]


@virtually
async def test_a_caller_of_punctuation_can_be_cancelled() -> None:
    async with running(punctuation_languages=frozenset({"en"})) as (inference, (triton,)):
        asking = asyncio.create_task(inference.punctuate("hello", "", "en"))
        await settle()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert triton.calls == []


@virtually
async def test_without_a_punctuation_model_that_answers_nobody_waits() -> None:
    async with running(punctuation_languages=frozenset({"en"})) as (inference, (triton,)):
        triton.dead.add("punctuation")
        assert await inference.punctuate("hello", "", "en") is None
        begun = asyncio.get_running_loop().time()
        assert await inference.punctuate("hello", "", "en") is None
        assert asyncio.get_running_loop().time() == begun
        assert inference.is_healthy


@virtually
async def test_closing_answers_callers_of_punctuation() -> None:
    languages = frozenset({"en"})
    async with running(punctuation_languages=languages, punctuation_in_flight=1) as (inference, _):
        asking = [asyncio.create_task(inference.punctuate("hello", "", "en")) for _ in range(3)]
        await settle()
        begun = asyncio.get_running_loop().time()
        await inference.close()
        assert [await task for task in asking] == [None] * 3
        assert asyncio.get_running_loop().time() == begun
    assert await inference.punctuate("hello", "", "en") is None
