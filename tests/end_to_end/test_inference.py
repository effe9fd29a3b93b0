"""Inference against the real Triton: batches, dead stubs, kills and hangs."""

from __future__ import annotations

import asyncio
import os
import signal
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from launcher.triton import TritonProcess
from server.inference.service import Inference
from server.inference.settings import InferenceSettings, ModelRoute
from server.session.commands import Decode
from server.session.segment import Hypothesis
from tests.end_to_end.conftest import supervised

pytestmark = [pytest.mark.triton, pytest.mark.timeout(240)]

AUDIO = Path(__file__).parents[1] / "data" / "audio"
PATIENCE_S = 90.0
WORDS = "ask not what your country can do for you"


def speech(name: str = "jfk") -> NDArray[np.int16]:
    with wave.open(str(AUDIO / f"{name}.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


class Listener:
    """A session as the scheduler sees it."""

    def __init__(self, language: str = "en") -> None:
        self.language = language
        self.hypotheses: dict[int, Hypothesis] = {}
        self.failures: dict[int, str] = {}
        self._changed = asyncio.Event()

    def take_partial(self) -> Decode | None:
        return Decode(1000, speech()[:48000], self.language)

    def on_hypothesis(self, job: int, hypothesis: Hypothesis) -> None:
        assert job not in self.hypotheses
        self.hypotheses[job] = hypothesis
        self._changed.set()

    def on_decode_failed(self, job: int, reason: str) -> None:
        self.failures[job] = reason
        self._changed.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.hypotheses) + len(self.failures) < count:
                self._changed.clear()
                await self._changed.wait()


class News:
    """What the listener of an `Inference` is told, and when."""

    def __init__(self, inference: Inference) -> None:
        self.seen: list[tuple[bool, float]] = []
        self._changed = asyncio.Event()
        inference.on_trouble(self._take)

    def _take(self, healthy: bool) -> None:
        self.seen.append((healthy, asyncio.get_running_loop().time()))
        self._changed.set()

    async def until(self, healthy: bool) -> float:
        """Waits until this is the newest news; returns when it came."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.seen or self.seen[-1][0] is not healthy:
                self._changed.clear()
                await self._changed.wait()
        return self.seen[-1][1]


@asynccontextmanager
async def running(*tritons: TritonProcess, limit: int = 4, **others: object) -> AsyncIterator[tuple[Inference, News]]:
    addresses = tuple(triton.options.grpc_url for triton in tritons)
    chosen = InferenceSettings(addresses, (ModelRoute("asr", frozenset({"en"}), limit),), **others)  # type: ignore[arg-type]
    inference = Inference(chosen)
    news = News(inference)
    await inference.start()
    try:
        yield inference, news
    finally:
        await inference.close()


def bare(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalpha() or c == " ")


async def hears(inference: Inference) -> None:
    """A final that is asked for now is answered with the right words."""
    listener = Listener()
    inference.decode(listener, Decode(1, speech(), "en"))
    await listener.until(1)
    assert WORDS in bare(listener.hypotheses[1].text)


async def test_a_mixed_batch(triton: TritonProcess) -> None:
    chosen = InferenceSettings(
        (triton.options.grpc_url,),
        (ModelRoute("asr", frozenset({"en"}), 8), ModelRoute("asr_multilingual", frozenset({"auto", "es"}), 4)),
    )
    inference = Inference(chosen)
    await inference.start()
    try:
        english, other, bad = Listener(), Listener("auto"), Listener()
        audio = speech()
        for job, seconds in enumerate((2, 11, 3, 7, 5, 4)):
            inference.decode(english, Decode(job, audio[: 16000 * seconds], "en"))
        inference.decode(other, Decode(1, audio, "auto"))
        inference.decode(bad, Decode(1, audio[:100], "en"))
        await asyncio.gather(english.until(6), other.until(1), bad.until(1))
        assert not english.failures
        assert not other.failures
        assert "too short" in bad.failures[1]
        assert WORDS in bare(english.hypotheses[1].text)
        assert WORDS in bare(other.hypotheses[1].text)
        assert other.hypotheses[1].language == "en"
        first = english.hypotheses[1]
        assert len(first.tokens) > 10
        assert 0.3 < first.confidence <= 1
        inference.decode(english, Decode(10, audio, "en", first.tokens))
        await english.until(7)
        assert english.hypotheses[10].text == first.text
        inference.want_partial(english, 0.0, "en")
        await english.until(8)
        assert "fellow americans" in bare(english.hypotheses[1000].text)
        assert inference.health().is_healthy
    finally:
        await inference.close()


@pytest.mark.parametrize("count", [1, None], ids=["one", "all"])
async def test_killed_stubs_are_healed(fragile_triton: TritonProcess, count: int | None) -> None:
    async with supervised(fragile_triton), running(fragile_triton) as (inference, news):
        await hears(inference)
        before = {stub.pid for stub in fragile_triton.stubs("asr")}
        assert fragile_triton.kill_stub("asr", count) == (count or len(before))
        listener = Listener()
        for job in range(3):
            inference.decode(listener, Decode(job, speech(), "en"))
        await news.until(False)
        await listener.until(3)
        assert not listener.failures
        assert all(WORDS in bare(hypothesis.text) for hypothesis in listener.hypotheses.values())
        await news.until(True)
        # One that lived beside a dead one stays until Triton ends: it never lets go of such a model.
        assert {stub.pid for stub in fragile_triton.stubs("asr")} - before


async def test_a_stub_that_hangs_is_healed(fragile_triton: TritonProcess) -> None:
    soon: dict[str, Any] = {
        "final_timeout_s": 4.0,
        "probe_timeout_s": 1.0,
        "probe_interval_s": 0.5,
        "stuck_after_s": 3.0,
    }
    async with supervised(fragile_triton), running(fragile_triton, **soon) as (inference, news):
        for stub in fragile_triton.stubs("asr"):
            os.kill(stub.pid, signal.SIGSTOP)
        listener = Listener()
        inference.decode(listener, Decode(1, speech(), "en"))
        await news.until(False)
        await listener.until(1)
        assert WORDS in bare(listener.hypotheses[1].text)


async def test_a_killed_triton_that_is_started_again(fragile_triton: TritonProcess) -> None:
    async with running(fragile_triton) as (inference, news):
        await hears(inference)
        listener = Listener()
        for job in range(6):
            inference.decode(listener, Decode(job, speech(), "en"))
        fragile_triton.kill()
        await news.until(False)
        await asyncio.to_thread(fragile_triton.wait_exit, 20)
        await asyncio.to_thread(fragile_triton.stop)
        await asyncio.to_thread(fragile_triton.start)
        await listener.until(6)
        assert not listener.failures
        assert all(WORDS in bare(hypothesis.text) for hypothesis in listener.hypotheses.values())
        await news.until(True)


async def test_a_triton_that_hangs_is_noticed_soon_and_used_again(fragile_triton: TritonProcess) -> None:
    async with running(fragile_triton) as (inference, news):
        await hears(inference)
        hung_at = asyncio.get_running_loop().time()
        fragile_triton.pause()
        listener = Listener()
        inference.decode(listener, Decode(1, speech(), "en"))
        noticed_at = await news.until(False)
        print(f"noticed after {noticed_at - hung_at:.2f} s")
        fragile_triton.resume()
        await listener.until(1)
        assert WORDS in bare(listener.hypotheses[1].text)


async def test_one_of_two_tritons_is_killed(triton: TritonProcess, fragile_triton: TritonProcess) -> None:
    async with running(fragile_triton, triton, limit=2) as (inference, news):
        listener = Listener()
        for job in range(8):
            inference.decode(listener, Decode(job, speech(), "en"))
        await asyncio.sleep(0)
        fragile_triton.kill()
        await listener.until(8)
        assert not listener.failures
        assert all(WORDS in bare(hypothesis.text) for hypothesis in listener.hypotheses.values())
        assert [healthy for healthy, _ in news.seen] == [True]
        assert inference.is_healthy
    await asyncio.to_thread(fragile_triton.stop)
    await asyncio.to_thread(fragile_triton.start_ready)
