"""Clients without a network for tests in virtual time, and a source that notes its answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from server.inference.client import ModelShape, ModelState
from server.inference.errors import Fault, InferenceError
from server.inference.settings import InferenceSettings, ModelRoute
from server.inference.wire import PROBE_TEXT, probe_window
from server.session.commands import Decode
from server.session.segment import Hypothesis
from tests.server.inference.fake_triton import Asked, answer_to, asked_of

PROBE_SAMPLES = len(probe_window())

GONE = InferenceError(Fault.GONE, "UNAVAILABLE: connection refused")
DEAD = InferenceError(Fault.DEAD, "INTERNAL: Stub process 'asr_0_0' is not healthy.")
FAILED = InferenceError(Fault.FAILED, "INTERNAL: something broke")
REFUSED = InferenceError(Fault.REFUSED, "INVALID_ARGUMENT: too short")
LATE = InferenceError(Fault.LATE, "no answer in time")


def again(error: InferenceError) -> InferenceError:
    """A fresh copy: one that is raised many times would collect tracebacks."""
    return InferenceError(error.fault, error.reason)


def window(job: int, samples: int = 3200, language: str = "en") -> Decode:
    return Decode(job, np.ones(samples, np.int16), language)


def settings(*addresses: str, limit: int = 2, **others: object) -> InferenceSettings:
    routes = (
        ModelRoute("asr", frozenset({"en"}), limit),
        ModelRoute("asr_multilingual", frozenset({"auto", "es", "fr"}), limit),
    )
    values: dict[str, object] = {"models": routes, "heal_jitter_s": 0.0, **others}
    return InferenceSettings(addresses or ("one",), **values)  # type: ignore[arg-type]


@dataclass(eq=False)
class Call:
    """A window that is with the model, to be answered by the test."""

    client: ScriptedClient
    asked: Asked
    result: asyncio.Future[pb.ModelInferResponse]

    def answer(self) -> None:
        if not self.result.done():
            self.result.set_result(answer_to(self.asked))

    def fail(self, error: InferenceError) -> None:
        if not self.result.done():
            self.result.set_exception(again(error))


@dataclass(eq=False)
class ScriptedClient:
    """One Triton: probes are answered at once as its state says, real windows when the test says so."""

    address: str
    is_alive: bool = True
    hangs: bool = False
    """Calls run into their deadlines."""
    seconds: float | None = None
    """Answers windows by itself after so long; None: the test does."""
    dead: set[str] = field(default_factory=set)
    states: dict[str, ModelState] = field(default_factory=dict)
    shapes: dict[str, ModelShape] = field(default_factory=dict)
    probe_errors: dict[str, InferenceError] = field(default_factory=dict)
    one_dead: set[str] = field(default_factory=set)
    """Models with a dead process among others that live: the last of as many batches of probes as there are fails."""
    probing: int = 0
    batches: int = 0
    """Of probes at such models; those that come at once share one."""
    load_error: InferenceError | None = None
    load_s: float = 0.0
    calls: list[Call] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    on_infer: Callable[[ScriptedClient, Asked], None] = lambda client, asked: None
    is_busy: bool = False
    """Its count of batches grows although it does not answer."""
    moves: int = 0
    seen: set[int] = field(default_factory=set)
    """Lengths of all windows that ever came."""
    is_closed: bool = False

    async def infer(self, request: pb.ModelInferRequest, timeout_s: float) -> pb.ModelInferResponse:
        asked = asked_of(request)
        if asked.samples == PROBE_SAMPLES or asked.text == PROBE_TEXT:
            self.log.append(f"probe {asked.model}")
            await self._pass(timeout_s, asked.model)
            if asked.model in self.one_dead:
                self.batches += self.probing == 0
                self.probing += 1
                await asyncio.sleep(0)
                self.probing -= 1
                if self.batches % self.shapes.get(asked.model, ModelShape()).instances == 0:
                    raise again(DEAD)
            if (error := self.probe_errors.get(asked.model)) is not None:
                raise again(error)
            return answer_to(asked)
        self.seen.add(asked.samples)
        self.on_infer(self, asked)
        call = Call(self, asked, asyncio.get_running_loop().create_future())
        self.calls.append(call)
        try:
            await self._pass(timeout_s, asked.model)
            async with asyncio.timeout(timeout_s):
                if self.seconds is not None:
                    await asyncio.sleep(self.seconds)
                    return answer_to(asked)
                return await call.result
        except TimeoutError:
            raise again(LATE) from None
        finally:
            self.calls.remove(call)

    async def is_live(self, timeout_s: float) -> bool:
        await self._pass(timeout_s)
        return True

    async def model_state(self, model: str, timeout_s: float) -> ModelState:
        await self._pass(timeout_s)
        return self.states.get(model, ModelState.READY)

    async def shape(self, model: str, timeout_s: float) -> ModelShape:
        await self._pass(timeout_s)
        return self.shapes.get(model, ModelShape())

    async def progress(self, model: str, timeout_s: float) -> int:
        await self._pass(timeout_s)
        self.moves += self.is_busy
        return self.moves

    async def load(self, model: str, timeout_s: float) -> None:
        await self._pass(timeout_s)
        self.log.append(f"load {model}")
        if self.load_error is not None:
            raise again(self.load_error)
        if self.states.get(model, ModelState.READY) is not ModelState.READY:
            self.states[model] = ModelState.LOADING
            await asyncio.sleep(self.load_s)
            self.dead.discard(model)
            self.one_dead.discard(model)
        self.states[model] = ModelState.READY

    async def unload(self, model: str, timeout_s: float) -> None:
        await self._pass(timeout_s)
        self.log.append(f"unload {model}")
        self.states[model] = ModelState.UNLOADING

    async def close(self) -> None:
        self.is_closed = True
        for call in list(self.calls):
            call.fail(GONE)

    async def _pass(self, timeout_s: float, model: str = "") -> None:
        if self.hangs:
            await asyncio.sleep(timeout_s)
            raise again(LATE)
        if not self.is_alive:
            raise again(GONE)
        if model and self.states.get(model, ModelState.READY) is not ModelState.READY:
            raise again(GONE)
        if model in self.dead:
            raise again(DEAD)

    def windows(self, model: str = "asr") -> list[int]:
        """Lengths of the windows that are with a model."""
        return [call.asked.samples for call in self.calls if call.asked.model == model]

    def call(self, samples: int) -> Call:
        """The call with the window of this length."""
        return next(call for call in self.calls if call.asked.samples == samples)


class Network:
    """All clients, by address; pass `connect` to `Inference`."""

    def __init__(self, *addresses: str) -> None:
        self.clients = {address: ScriptedClient(address) for address in addresses or ("one",)}

    def connect(self, address: str) -> ScriptedClient:
        return self.clients[address]


class Source:
    """A session as the scheduler sees it: gives windows, notes answers."""

    def __init__(self, language: str = "en", first_job: int = 1000) -> None:
        self.language = language
        self.jobs = first_job
        self.samples = 1600
        self.answers: list[tuple[int, str]] = []
        self.failures: list[tuple[int, str]] = []
        self.taken: list[int] = []
        self.gives_windows = True
        self._news = asyncio.Event()

    def take_partial(self) -> Decode | None:
        if not self.gives_windows:
            return None
        self.jobs += 1
        self.samples += 1
        self.taken.append(self.jobs)
        return window(self.jobs, self.samples, self.language)

    def on_hypothesis(self, job: int, hypothesis: Hypothesis) -> None:
        self.answers.append((job, hypothesis.text))
        self._news.set()

    def on_decode_failed(self, job: int, reason: str) -> None:
        self.failures.append((job, reason))
        self._news.set()

    async def answered(self, count: int, timeout_s: float = 20.0) -> None:
        """Waits until there have been so many answers, failures included."""
        async with asyncio.timeout(timeout_s):
            while len(self.answers) + len(self.failures) < count:
                self._news.clear()
                await self._news.wait()


async def settle() -> None:
    """Lets everything run that is ready to."""
    for _ in range(12):
        await asyncio.sleep(0)
