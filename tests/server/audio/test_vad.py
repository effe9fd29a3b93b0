from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from server.audio.silero import CONTEXT, HIDDEN, WINDOW
from server.audio.vad import (
    Job,
    Result,
    VadClosedError,
    VadFailedError,
    VadOverloadedError,
    VadService,
    VadState,
    VoiceDetector,
)

from .conftest import read_clip

DEADLINE = 30


@pytest.fixture(scope="module")
def detector(silero_path: Path) -> VoiceDetector:
    return VoiceDetector(silero_path)


def alone(detector: VoiceDetector, state: VadState, samples: NDArray[np.int16]) -> Result:
    (result,) = detector.detect([(state, samples)])
    return result


def speech_of(detector: VoiceDetector, samples: NDArray[np.int16]) -> NDArray[np.float32]:
    return alone(detector, VadState.initial(), samples[: samples.size // WINDOW * WINDOW])[0]


def assert_same(got: Result, expected: Result) -> None:
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1].memory, expected[1].memory)
    np.testing.assert_array_equal(got[1].context, expected[1].context)


def random_job(random: np.random.Generator, speech: NDArray[np.int16], windows: int) -> Job:
    start = random.integers(0, speech.size - windows * WINDOW)
    memory = np.tanh(random.standard_normal((2, HIDDEN))).astype(np.float32)
    context = random.integers(-3000, 3000, CONTEXT).astype(np.int16)
    return VadState(memory.tobytes(), context.tobytes()), speech[start : start + windows * WINDOW]


# What it hears


@pytest.mark.parametrize("clip", ["jfk.wav", "librivox_sense_0870.wav", "librivox_sense_0880.wav"])
def test_probabilities_are_those_of_the_packaged_graph(detector: VoiceDetector, silero_path: Path, clip: str) -> None:
    samples = read_clip(clip)
    packaged = ort.InferenceSession(silero_path, providers=["CPUExecutionProvider"])
    heard = np.concatenate([np.zeros(CONTEXT, np.int16), samples]) / np.float32(32768)
    state, expected = np.zeros((2, 1, HIDDEN), np.float32), []
    for start in range(0, samples.size // WINDOW * WINDOW, WINDOW):
        window = heard[None, start : start + CONTEXT + WINDOW]
        speech, state = packaged.run(None, {"input": window, "state": state, "sr": np.array(16000)})
        expected.append(speech[0, 0])
    np.testing.assert_allclose(speech_of(detector, samples), expected, atol=1e-4)


def test_speech_and_its_pauses_are_told_apart(detector: VoiceDetector, jfk: NDArray[np.int16]) -> None:
    voiced = speech_of(detector, jfk) > 0.5
    assert 0.55 < voiced.mean() < 0.8
    # Nothing before "And so", a long pause after it.
    assert not voiced[:8].any()
    assert voiced[12:60].mean() > 0.9
    assert voiced[75:100].mean() < 0.1


@pytest.mark.parametrize(
    "kind", ["zeros", "constant", "full scale constant", "faint noise", "noise", "loud noise", "hum", "clicks"]
)
def test_what_is_no_speech_is_not_heard_as_speech(detector: VoiceDetector, kind: str) -> None:
    time = np.arange(200 * WINDOW) / 16000
    noise = np.random.default_rng(1).standard_normal(time.size)
    samples = {
        "zeros": np.zeros(time.size),
        "constant": np.full(time.size, 2000.0),
        "full scale constant": np.full(time.size, -32768.0),
        "faint noise": 10 * noise,
        "noise": 500 * noise,
        "loud noise": np.clip(6000 * noise, -32768, 32767),
        "hum": 5000 * np.sin(2 * np.pi * 50 * time),
        "clicks": np.where(np.arange(time.size) % 8000 == 0, 30000, 0),
    }[kind]
    voiced = speech_of(detector, samples.astype(np.int16)) > 0.5
    assert voiced.mean() < 0.05


# One result whatever the batch


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=24), st.integers(0, 2**31))
def test_neighbours_change_no_bit(
    detector: VoiceDetector, jfk: NDArray[np.int16], lengths: list[int], seed: int
) -> None:
    random = np.random.default_rng(seed)
    jobs = [random_job(random, jfk, windows) for windows in lengths]
    for job, got in zip(jobs, detector.detect(jobs), strict=True):
        assert_same(got, alone(detector, *job))


@pytest.mark.parametrize("count", [*range(1, 34), 100, 255, 256, 257, 600])
def test_the_size_of_the_batch_changes_no_bit(detector: VoiceDetector, jfk: NDArray[np.int16], count: int) -> None:
    random = np.random.default_rng(count)
    jobs = [random_job(random, jfk, 1) for _ in range(count)]
    results = detector.detect(jobs)
    for index in {0, count // 2, count - 1}:
        assert_same(results[index], alone(detector, *jobs[index]))


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 40), max_size=6))
def test_cuts_change_no_bit(detector: VoiceDetector, jfk: NDArray[np.int16], cuts: list[int]) -> None:
    whole = alone(detector, VadState.initial(), jfk[: 40 * WINDOW])
    state, parts = VadState.initial(), []
    for part in np.split(jfk[: 40 * WINDOW], [cut * WINDOW for cut in sorted(cuts)]):
        speech, state = alone(detector, state, part)
        parts.append(speech)
    assert_same((np.concatenate(parts), state), whole)


def test_a_state_holds_its_own_bytes_and_no_more(detector: VoiceDetector, jfk: NDArray[np.int16]) -> None:
    jobs = [random_job(np.random.default_rng(index), jfk, 2) for index in range(20)]
    for (_, samples), (_, state) in zip(jobs, detector.detect(jobs), strict=True):
        assert type(state.memory) is bytes
        assert len(state.memory) == 2 * HIDDEN * 4
        assert state.context == samples[-CONTEXT:].tobytes()


@pytest.mark.parametrize(
    "samples", [np.zeros(511, np.int16), np.zeros(512, np.float32), np.zeros((1, 512), np.int16)], ids=str
)
async def test_samples_of_another_form_are_refused(detector: VoiceDetector, samples: NDArray[np.int16]) -> None:
    with pytest.raises(ValueError, match=r"int16 of shape \(k \* 512,\)"):
        detector.detect([(VadState.initial(), samples)])
    service = VadService(detector)
    with pytest.raises(ValueError, match=r"int16 of shape \(k \* 512,\)"):
        await service.detect(VadState.initial(), samples)
    await service.close()


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        VoiceDetector(tmp_path / "missing.onnx")
    (tmp_path / "text.onnx").write_text("not found")
    with pytest.raises(ValueError, match="ONNX"):
        VoiceDetector(tmp_path / "text.onnx")


# The service


class GatedDetector(VoiceDetector):
    """The real model behind a gate, so that a test decides when a batch ends. Counts its batches."""

    def __init__(self, model: Path) -> None:
        super().__init__(model)
        self.started = threading.Event()
        self.gate = threading.Event()
        self.sizes: list[int] = []
        self.error: Exception | None = None

    def detect(self, jobs: Sequence[Job]) -> list[Result]:
        self.sizes.append(len(jobs))
        self.started.set()
        assert self.gate.wait(DEADLINE)
        if self.error is not None:
            raise self.error
        return super().detect(jobs)

    async def has_started(self) -> None:
        assert await asyncio.to_thread(self.started.wait, DEADLINE)


@pytest.fixture
def gated(silero_path: Path) -> GatedDetector:
    return GatedDetector(silero_path)


@pytest.fixture
async def service(gated: GatedDetector) -> AsyncIterator[VadService]:
    service = VadService(gated, gather_ms=0, max_waiting=100)
    yield service
    gated.gate.set()
    await service.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("voice-activity")]


Pending = asyncio.Task[Result]


def send(service: VadService, job: Job) -> Pending:
    return asyncio.create_task(service.detect(*job))


async def first_in_work(service: VadService, gated: GatedDetector, job: Job) -> Pending:
    """Sends a job and returns once the thread computes it."""
    task = send(service, job)
    await gated.has_started()
    return task


async def settle() -> None:
    """Lets every task run up to where it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_waits_during_a_batch_is_the_next_batch(
    service: VadService, gated: GatedDetector, detector: VoiceDetector, jfk: NDArray[np.int16]
) -> None:
    jobs = [random_job(np.random.default_rng(index), jfk, index % 3) for index in range(12)]
    tasks = [await first_in_work(service, gated, jobs[0])]
    tasks += [send(service, job) for job in jobs[1:]]
    await settle()
    gated.gate.set()
    async with asyncio.timeout(DEADLINE):
        results = await asyncio.gather(*tasks)
    assert gated.sizes == [1, 11]
    for job, result in zip(jobs, results, strict=True):
        assert_same(result, alone(detector, *job))


async def test_the_service_rests_and_starts_again(
    service: VadService, gated: GatedDetector, jfk: NDArray[np.int16]
) -> None:
    gated.gate.set()
    for _ in range(3):
        await service.detect(VadState.initial(), jfk[:WINDOW])
        await settle()
    assert gated.sizes == [1, 1, 1]


async def test_jobs_gather(gated: GatedDetector, jfk: NDArray[np.int16]) -> None:
    gated.gate.set()
    service = VadService(gated, gather_ms=300)
    first = send(service, (VadState.initial(), jfk[:WINDOW]))
    await settle()
    second = send(service, (VadState.initial(), jfk[:WINDOW]))
    assert_same(await first, await second)
    assert gated.sizes == [2]
    await service.close()


async def test_in_a_crowd_company_is_waited_for_twice_as_long(
    gated: GatedDetector, jfk: NDArray[np.int16], monkeypatch: pytest.MonkeyPatch
) -> None:
    gated.gate.set()
    service = VadService(gated, gather_ms=8)
    loop, waits = asyncio.get_running_loop(), list[float]()
    call_later = loop.call_later

    def note(delay: float, *rest: Any) -> asyncio.TimerHandle:
        waits.append(delay)
        return call_later(delay, *rest)

    monkeypatch.setattr(loop, "call_later", note)
    job = (VadState.initial(), jfk[:WINDOW])
    for count in (1, 64, 1, 1):
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*(send(service, job) for _ in range(count)))
    assert gated.sizes == [1, 64, 1, 1]
    assert [wait for wait in waits if wait < 1] == [0.008, 0.008, 0.016, 0.008]
    await service.close()


async def test_past_the_limit_jobs_are_refused_and_those_before_served(
    service: VadService, gated: GatedDetector, jfk: NDArray[np.int16]
) -> None:
    half = (VadState.initial(), jfk[: 50 * WINDOW])
    tasks = [await first_in_work(service, gated, half)] + [send(service, half) for _ in range(2)]
    await settle()
    with pytest.raises(VadOverloadedError, match="100 windows wait"):
        await service.detect(VadState.initial(), jfk[:WINDOW])
    gated.gate.set()
    await asyncio.gather(*tasks)
    # Waiting work was counted down again.
    await service.detect(*half)


async def test_a_job_over_the_limit_is_served_when_nothing_else_waits(
    service: VadService, gated: GatedDetector, jfk: NDArray[np.int16]
) -> None:
    gated.gate.set()
    speech, _ = await service.detect(VadState.initial(), jfk[: 300 * WINDOW])
    assert speech.size == 300


async def test_a_cancelled_caller_harms_no_other(
    service: VadService, gated: GatedDetector, detector: VoiceDetector, jfk: NDArray[np.int16]
) -> None:
    job = (VadState.initial(), jfk[:WINDOW])
    working = await first_in_work(service, gated, job)
    waiting, other = send(service, job), send(service, job)
    await settle()
    working.cancel()
    waiting.cancel()
    gated.gate.set()
    assert_same(await other, alone(detector, *job))
    for task in (working, waiting):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert gated.sizes == [1, 2]


async def test_a_failure_reaches_each_caller_of_its_batch_only(
    service: VadService, gated: GatedDetector, jfk: NDArray[np.int16]
) -> None:
    job = (VadState.initial(), jfk[:WINDOW])
    gated.error = RuntimeError("out of memory")
    tasks = [send(service, job) for _ in range(3)]
    await gated.has_started()
    gated.gate.set()
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert len({id(error) for error in errors}) == 3
    for error in errors:
        assert isinstance(error, VadFailedError)
        assert str(error) == "voice activity failed: out of memory"
        assert error.__cause__ is gated.error
    gated.error = None
    await service.detect(*job)


async def test_close_finishes_the_batch_and_fails_what_waits(
    service: VadService, gated: GatedDetector, detector: VoiceDetector, jfk: NDArray[np.int16]
) -> None:
    job = (VadState.initial(), jfk[:WINDOW])
    working = await first_in_work(service, gated, job)
    waiting = send(service, job)
    await settle()
    closing = asyncio.create_task(service.close())
    with pytest.raises(VadClosedError):
        await waiting
    assert not closing.done()
    gated.gate.set()
    await closing
    assert_same(await working, alone(detector, *job))
    with pytest.raises(VadClosedError):
        await service.detect(*job)
    await service.close()


async def test_a_cancelled_close_can_be_repeated(
    service: VadService, gated: GatedDetector, detector: VoiceDetector, jfk: NDArray[np.int16]
) -> None:
    job = (VadState.initial(), jfk[:WINDOW])
    working = await first_in_work(service, gated, job)
    closing = asyncio.create_task(service.close())
    await settle()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    gated.gate.set()
    await service.close()
    assert_same(await working, alone(detector, *job))


async def test_answers_come_later_in_order_and_may_ask_again(
    service: VadService, gated: GatedDetector, detector: VoiceDetector, jfk: NDArray[np.int16]
) -> None:
    gated.gate.set()
    heard: list[tuple[int, Result]] = []
    done = asyncio.Event()

    def ask(number: int, state: VadState) -> None:
        start = number // 2 * WINDOW
        service.submit(state, jfk[start : start + WINDOW], lambda outcome: take(number, outcome))

    def take(number: int, outcome: Result | Exception) -> None:
        assert not isinstance(outcome, Exception)
        heard.append((number, outcome))
        if number < 6:
            ask(number + 2, outcome[1])
        elif number == 7:
            done.set()

    ask(0, VadState.initial())
    ask(1, VadState.initial())
    assert not heard
    async with asyncio.timeout(DEADLINE):
        await done.wait()
    assert [number for number, _ in heard] == list(range(8))
    expected = speech_of(detector, jfk[: 4 * WINDOW])
    for parity in (0, 1):
        got = np.concatenate([speech for number, (speech, _) in heard if number % 2 == parity])
        np.testing.assert_array_equal(got, expected)


async def test_an_answer_that_is_not_taken_harms_no_other(
    service: VadService, gated: GatedDetector, jfk: NDArray[np.int16], caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(outcome: Result | Exception) -> None:
        raise LookupError("nobody is here")

    service.submit(VadState.initial(), jfk[:WINDOW], refuse)
    other = send(service, (VadState.initial(), jfk[:WINDOW]))
    await settle()
    gated.gate.set()
    async with asyncio.timeout(DEADLINE):
        await other
        await service.detect(VadState.initial(), jfk[:WINDOW])
    assert "nobody is here" in caplog.text


def test_a_loop_torn_down_with_a_batch_in_work_ends_in_silence(
    gated: GatedDetector, jfk: NDArray[np.int16], monkeypatch: pytest.MonkeyPatch
) -> None:
    faults: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", faults.append)
    services: list[VadService] = []

    async def main() -> None:
        services.append(VadService(gated, gather_ms=0))
        await first_in_work(services[0], gated, (VadState.initial(), jfk[:WINDOW]))

    asyncio.run(main())
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "voice-activity"]
    assert thread.daemon
    gated.gate.set()
    services[0]._batches.put(None)
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert faults == []


async def test_the_loop_runs_on_during_a_batch(detector: VoiceDetector, jfk: NDArray[np.int16]) -> None:
    """A long job shares the interpreter: the loop gets many turns before it ends."""
    service = VadService(detector, gather_ms=0)
    samples = np.tile(jfk[: 300 * WINDOW], 10)
    task = send(service, (VadState.initial(), samples))
    turns = 0
    async with asyncio.timeout(DEADLINE):
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
    assert (await task)[0].size == 3000
    assert turns > 20
    await service.close()
