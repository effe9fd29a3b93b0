"""Inference over real gRPC, against a Triton that misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import CoroutineType

import grpc
import numpy as np
import pytest
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup, ModelParameter

from server.inference import wire
from server.inference.client import ModelShape, ModelState, TritonClient
from server.inference.errors import Fault, InferenceError
from server.inference.service import Inference
from server.inference.settings import InferenceSettings, ModelRoute
from server.session.commands import Decode
from tests.server.inference.fake_triton import AbortError, Asked, FakeTriton
from tests.server.inference.scripted import Source, window

PATIENCE_S = 30.0


class News:
    """What the listener is told."""

    def __init__(self, inference: Inference) -> None:
        self.seen: list[bool] = []
        self._changed = asyncio.Event()
        inference.on_trouble(self._take)

    def _take(self, healthy: bool) -> None:
        self.seen.append(healthy)
        self._changed.set()

    async def until(self, *expected: bool) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.seen != list(expected):
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def running(*tritons: FakeTriton, limit: int = 2, **others: object) -> AsyncIterator[tuple[Inference, News]]:
    chosen = InferenceSettings(
        tuple(triton.address for triton in tritons),
        (ModelRoute("asr", frozenset({"en"}), limit),),
        **others,  # type: ignore[arg-type]
    )
    inference = Inference(chosen)
    news = News(inference)
    await inference.start()
    assert own_tasks()
    try:
        yield inference, news
    finally:
        await inference.close()
        assert not own_tasks()


def own_tasks() -> list[str]:
    """The tasks of what is tested; those of the fake server and of gRPC itself are left out."""
    coroutines = [task.get_coro() for task in asyncio.all_tasks()]
    files = [c.cr_code.co_filename for c in coroutines if isinstance(c, CoroutineType)]
    return [name for name in files if "/server/inference/" in name and "/tests/" not in name]


def failing(code: grpc.StatusCode, details: str, *, times: int) -> object:
    """Trouble for the first real windows."""
    left = [times]

    def trouble(asked: Asked) -> None:
        if asked.samples == 3200 and left[0]:
            left[0] -= 1
            raise AbortError(code, details)

    return trouble


# --- the client alone


@asynccontextmanager
async def client_of(triton: FakeTriton) -> AsyncIterator[TritonClient]:
    client = TritonClient(triton.address)
    try:
        yield client
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("code", "details", "fault"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "0.006 s of audio is too short", Fault.REFUSED),
        (grpc.StatusCode.UNIMPLEMENTED, "no such thing", Fault.REFUSED),
        (grpc.StatusCode.INTERNAL, "Stub process 'asr_0_0' is not healthy.", Fault.DEAD),
        (grpc.StatusCode.INTERNAL, "CUDA error", Fault.FAILED),
        (grpc.StatusCode.UNKNOWN, "Exception", Fault.FAILED),
        (grpc.StatusCode.CANCELLED, "cancelled", Fault.FAILED),
        (grpc.StatusCode.UNAVAILABLE, "model is not ready", Fault.GONE),
        (grpc.StatusCode.NOT_FOUND, "Request for unknown model", Fault.GONE),
    ],
)
async def test_errors_are_sorted(code: grpc.StatusCode, details: str, fault: Fault) -> None:
    def trouble(asked: Asked) -> None:
        raise AbortError(code, details)

    async with FakeTriton("asr") as triton, client_of(triton) as client:
        triton.models["asr"].trouble = trouble
        with pytest.raises(InferenceError, match=details[:10]) as caught:
            await client.infer(wire.asr_request("asr", window(1)), 10)
        assert caught.value.fault is fault


async def test_a_call_has_a_deadline() -> None:
    async with FakeTriton("asr") as triton, client_of(triton) as client:
        triton.responds.clear()
        for call in (
            client.infer(wire.asr_request("asr", window(1)), 0.05),
            client.is_live(0.05),
            client.model_state("asr", 0.05),
            client.progress("asr", 0.05),
            client.load("asr", 0.05),
            client.unload("asr", 0.05),
        ):
            with pytest.raises(InferenceError) as caught:
                await call
            assert caught.value.fault is Fault.LATE


async def test_nobody_there() -> None:
    async with FakeTriton("asr") as triton:
        await triton.stop()
        async with client_of(triton) as client:
            with pytest.raises(InferenceError) as caught:
                await client.is_live(5)
            assert caught.value.fault is Fault.GONE


async def test_thirty_seconds_of_audio_fit() -> None:
    async with FakeTriton("asr") as triton, client_of(triton) as client:
        audio = np.arange(480_000, dtype=np.int32).astype(np.int16)
        tokens = np.arange(200_000, dtype=np.int32)
        answer = await client.infer(wire.asr_request("asr", Decode(1, audio, "en", tokens)), 10)
        assert wire.hypothesis(answer).text == "480000 samples"
        assert triton.asked[0].draft == tuple(range(200_000))


async def test_a_cancelled_task_cancels_the_call_at_triton() -> None:
    async with FakeTriton("asr") as triton, client_of(triton) as client:
        triton.models["asr"].gate.clear()
        task = asyncio.create_task(client.infer(wire.asr_request("asr", window(1)), 60))
        await triton.until(lambda: triton.in_flight["asr"] == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await triton.until(lambda: triton.cancelled == 1)


async def test_a_call_ends_when_the_client_is_closed() -> None:
    async with FakeTriton("asr") as triton, client_of(triton) as client:
        triton.models["asr"].gate.clear()
        task = asyncio.create_task(client.infer(wire.asr_request("asr", window(1)), 60))
        await triton.until(lambda: triton.in_flight["asr"] == 1)
        await client.close()
        with pytest.raises(InferenceError) as caught:
            await task
        assert caught.value.fault is Fault.GONE
        with pytest.raises(InferenceError):
            await client.is_live(5)


async def test_progress_shows_work() -> None:
    async with FakeTriton("asr") as triton, client_of(triton) as client:
        before = await client.progress("asr", 5)
        await client.infer(wire.asr_request("asr", window(1)), 10)
        assert await client.progress("asr", 5) == before + 1
        assert await client.progress("nothing", 5) == 0


def served(*groups: ModelInstanceGroup, max_batch: int = 8, threads: str | None = None) -> ModelConfig:
    """A model's configuration."""
    parameters = {} if threads is None else {"THREADS": ModelParameter(string_value=threads)}
    return ModelConfig(max_batch_size=max_batch, instance_group=groups, parameters=parameters)


def group(kind: int, count: int, gpus: Sequence[int] = ()) -> ModelInstanceGroup:
    return ModelInstanceGroup(kind=kind, count=count, gpus=gpus)


CPU, GPU = ModelInstanceGroup.KIND_CPU, ModelInstanceGroup.KIND_GPU


@pytest.mark.parametrize(
    ("config", "shape", "in_flight"),
    [
        (ModelConfig(), ModelShape(), 2),
        (served(group(CPU, 2)), ModelShape(2, 1, 8), 3),
        (served(group(CPU, 1), threads="4"), ModelShape(1, 4, 8), 6),
        (served(group(CPU, 1), threads="many"), ModelShape(1, 1, 8), 2),
        (served(group(GPU, 2, [0, 1]), max_batch=4), ModelShape(4, 1, 4, on_gpu=True), 32),
    ],
)
async def test_how_a_model_is_served(config: ModelConfig, shape: ModelShape, in_flight: int) -> None:
    async with FakeTriton("asr") as triton, client_of(triton) as client:
        triton.models["asr"].config = config
        assert await client.shape("asr", 5) == shape
        assert shape.in_flight == in_flight


async def test_the_repository() -> None:
    async with FakeTriton("asr") as triton, client_of(triton) as client:
        assert await client.model_state("asr", 5) is ModelState.READY
        assert await client.model_state("nothing", 5) is ModelState.UNAVAILABLE
        await client.unload("asr", 5)
        assert await client.model_state("asr", 5) is ModelState.UNAVAILABLE
        await client.load("asr", 5)
        assert await client.model_state("asr", 5) is ModelState.READY


# --- the whole


async def test_many_sources_at_once() -> None:
    async with FakeTriton("asr") as triton, running(triton, limit=4) as (inference, _):
        triton.models["asr"].gate.clear()
        sources = [Source() for _ in range(40)]
        for n, source in enumerate(sources):
            inference.decode(source, window(1, 2000 + n))
            inference.decode(source, window(2, 3000 + n))
        await triton.until(lambda: triton.in_flight["asr"] == 4)
        triton.models["asr"].gate.set()
        for n, source in enumerate(sources):
            await source.answered(2, PATIENCE_S)
            assert sorted(source.answers) == [(1, f"{2000 + n} samples"), (2, f"{3000 + n} samples")]
        for source in sources:
            inference.want_partial(source, 0.0, "en")
        for source in sources:
            await source.answered(3, PATIENCE_S)
        assert triton.most_in_flight["asr"] == 4


async def test_forgetting_a_source_cancels_its_calls_at_triton() -> None:
    async with FakeTriton("asr") as triton, running(triton) as (inference, _):
        triton.models["asr"].gate.clear()
        source = Source()
        inference.decode(source, window(1))
        await triton.until(lambda: triton.in_flight["asr"] == 1)
        inference.forget(source)
        await triton.until(lambda: triton.cancelled == 1)
        assert source.answers == source.failures == []


async def test_errors_for_some_requests() -> None:
    async with FakeTriton("asr") as triton, running(triton) as (inference, news):
        triton.models["asr"].trouble = failing(grpc.StatusCode.INTERNAL, "broken", times=3)  # type: ignore[assignment]
        sources = [Source() for _ in range(6)]
        for source in sources:
            inference.decode(source, window(1))
        for source in sources:
            await source.answered(1, PATIENCE_S)
            assert source.answers == [(1, "3200 samples")]
        assert news.seen == [True]


async def test_a_bad_window_among_good_ones() -> None:
    def trouble(asked: Asked) -> None:
        if asked.samples == 10:
            raise AbortError(grpc.StatusCode.INVALID_ARGUMENT, "too short")

    async with FakeTriton("asr") as triton, running(triton) as (inference, news):
        triton.models["asr"].trouble = trouble
        good, bad = Source(), Source()
        inference.decode(bad, window(1, 10))
        inference.decode(good, window(1))
        await bad.answered(1, PATIENCE_S)
        await good.answered(1, PATIENCE_S)
        assert bad.failures == [(1, "INVALID_ARGUMENT: too short")]
        assert good.answers == [(1, "3200 samples")]
        assert sum(asked.samples == 10 for asked in triton.asked) == 1
        assert news.seen == [True]


async def test_a_killed_triton_that_comes_back() -> None:
    async with FakeTriton("asr") as triton, running(triton) as (inference, news):
        triton.models["asr"].gate.clear()
        sent, waiting = Source(), [Source() for _ in range(5)]
        inference.decode(sent, window(1))
        await triton.until(lambda: triton.in_flight["asr"] == 1)
        await triton.stop()
        await news.until(True, False)
        for source in waiting:
            inference.decode(source, window(1))
        triton.models["asr"].gate.set()
        await triton.start()
        for source in (sent, *waiting):
            await source.answered(1, PATIENCE_S)
            assert source.answers == [(1, "3200 samples")]
        await news.until(True, False, True)


async def test_a_triton_that_hangs_and_comes_back() -> None:
    async with FakeTriton("asr") as triton, running(triton) as (inference, news):
        triton.responds.clear()
        final, partial = Source(), Source()
        inference.decode(final, window(1))
        inference.want_partial(partial, 0.0, "en")
        await news.until(True, False)
        await partial.answered(1, PATIENCE_S)
        assert partial.failures
        assert not final.failures
        triton.responds.set()
        await final.answered(1, PATIENCE_S)
        assert final.answers == [(1, "3200 samples")]
        await news.until(True, False, True)


async def test_a_dead_stub_is_healed() -> None:
    async with FakeTriton("asr") as triton, running(triton) as (inference, news):
        triton.models["asr"].is_stub_dead = True
        triton.responds_to_loads.clear()
        source = Source()
        inference.decode(source, window(1))
        await news.until(True, False)
        triton.responds_to_loads.set()
        await news.until(True, False, True)
        await source.answered(1, PATIENCE_S)
        assert source.answers == [(1, "3200 samples")]
        assert triton.calls["RepositoryModelUnload"] == 1
        assert inference.is_up("en")


async def test_one_of_two_tritons_is_killed_with_work_on_it() -> None:
    async with FakeTriton("asr") as one, FakeTriton("asr") as two, running(one, two) as (inference, news):
        for triton in (one, two):
            triton.models["asr"].gate.clear()
        sources = [Source() for _ in range(6)]
        for source in sources:
            inference.decode(source, window(1))
        await one.until(lambda: one.in_flight["asr"] == 2)
        await two.until(lambda: two.in_flight["asr"] == 2)
        await one.stop()
        two.models["asr"].gate.set()
        for source in sources:
            await source.answered(1, PATIENCE_S)
            assert source.answers == [(1, "3200 samples")]
        assert news.seen == [True]
        assert inference.is_healthy


async def test_a_triton_that_is_not_there_at_first() -> None:
    async with FakeTriton("asr") as triton:
        await triton.stop()
        async with running(triton) as (inference, news):
            assert news.seen == [False]
            source = Source()
            inference.decode(source, window(1))
            await triton.start()
            await source.answered(1, PATIENCE_S)
            await news.until(False, True)


async def test_punctuation_over_grpc() -> None:
    languages = frozenset({"en"})
    async with (
        FakeTriton("asr", "punctuation") as triton,
        running(triton, punctuation_languages=languages) as (inference, _),
    ):
        assert await inference.punctuate("hello there", "so", "en") == "Hello there."
        triton.responds.clear()
        assert await inference.punctuate("hello there", "so", "en") is None
        assert triton.asked[-1].context == "so"


async def test_closing_with_work_under_way() -> None:
    async with FakeTriton("asr") as triton:
        async with running(triton) as (inference, _):
            triton.models["asr"].gate.clear()
            source = Source()
            for job in range(5):
                inference.decode(source, window(job))
            await triton.until(lambda: triton.in_flight["asr"] == 2)
        await triton.until(lambda: triton.cancelled == 2)
        assert source.answers == source.failures == []
