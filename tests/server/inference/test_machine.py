"""Random sequences of wishes, answers and faults: what must hold in all of them."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from server.inference.errors import InferenceError
from server.inference.service import Inference
from server.session.commands import Decode
from server.session.segment import Hypothesis
from tests.server.inference.fake_triton import Asked
from tests.server.inference.scripted import (
    DEAD,
    FAILED,
    GONE,
    LATE,
    REFUSED,
    Call,
    Network,
    ScriptedClient,
    settings,
    settle,
    window,
)
from tests.server.inference.virtual_time import VirtualLoop

ADDRESSES = ("one", "two")
MODELS = {"en": "asr", "es": "asr_multilingual"}
LIMIT = 2
SOURCES = 4
FIRST_FINAL = 3200
FIRST_PARTIAL = 100_000


class StrictSource:
    """Knows what it is owed and objects to any answer that it is not."""

    def __init__(self, machine: InferenceMachine, language: str) -> None:
        self.machine = machine
        self.language = language
        self.finals: dict[int, int] = {}
        """Job to window length of the finals without an answer."""
        self.partial: int | None = None
        """Job of the partial that was taken and has no answer."""
        self.wants = False

    def take_partial(self) -> Decode | None:
        self.machine.check(self.wants, "a window was asked for that nobody wants")
        self.machine.check(self.partial is None, "a second partial while one is under way")
        self.wants = False
        if self.machine.is_empty_handed:
            return None
        self.machine.jobs += 1
        self.partial = self.machine.jobs
        return window(self.partial, FIRST_PARTIAL + self.partial, self.language)

    def on_hypothesis(self, job: int, hypothesis: Hypothesis) -> None:
        samples = int(hypothesis.text.split()[0])
        if job == self.partial:
            self.machine.check(samples == FIRST_PARTIAL + job, "the answer to another window")
            self.partial = None
        else:
            self.machine.check(self.finals.pop(job, None) == samples, "an answer that is not owed")
        self.machine.check(hypothesis.language == self.language, "an answer from another model")

    def on_decode_failed(self, job: int, reason: str) -> None:
        if job == self.partial:
            self.partial = None
        else:
            self.machine.check(self.finals.pop(job, None) in self.machine.may_fail, f"a final was lost: {reason}")


class InferenceMachine(RuleBasedStateMachine):
    """Two models on two Tritons, four sources."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.network = Network(*ADDRESSES)
        self.jobs = 0
        self.is_empty_handed = False
        self.may_fail: set[int] = set()
        self.violations: list[str] = []
        self.sources: list[StrictSource] = []
        for client in self.network.clients.values():
            client.on_infer = self.check_order

    @initialize()
    def start(self) -> None:
        loop = self.runner.get_loop()
        chosen = settings(*ADDRESSES, limit=LIMIT, final_deadline_s=1e6, outage_deadline_s=1e6, final_errors=10**6)
        self.inference = Inference(chosen, clock=loop.time, connect=self.network.connect)
        self.runner.run(self.inference.start())
        self.sources = [StrictSource(self, "en" if n % 2 else "es") for n in range(SOURCES)]

    def check_order(self, client: ScriptedClient, asked: Asked) -> None:
        """No partial is sent while a final waits for the same model, unless that one was sent before and failed."""
        if asked.samples < FIRST_PARTIAL:
            return
        waiting = {
            samples
            for source in self.sources
            if MODELS[source.language] == asked.model
            for samples in source.finals.values()
        }
        sent = set().union(*(other.seen for other in self.network.clients.values()))
        self.check(waiting <= sent, "a partial was sent before a final")

    def check(self, holds: bool, what: str) -> None:
        """Noted, as what a source raises is caught."""
        if not holds:
            self.violations.append(what)

    def settle(self) -> None:
        self.runner.run(settle())

    def calls(self) -> list[Call]:
        return [call for client in self.network.clients.values() for call in client.calls]

    # --- what sessions do; several within one turn of the loop, as the last rule lets it run

    @rule(n=st.integers(0, SOURCES - 1), since=st.floats(0, 1e3))
    def want(self, n: int, since: float) -> None:
        source = self.sources[n]
        if source.partial is None:
            source.wants = True
            self.inference.want_partial(source, since, source.language)

    @rule(n=st.integers(0, SOURCES - 1))
    def drop(self, n: int) -> None:
        self.sources[n].wants, self.sources[n].partial = False, None
        self.inference.drop_partial(self.sources[n])

    @rule(n=st.integers(0, SOURCES - 1), count=st.integers(1, 4))
    def decode(self, n: int, count: int) -> None:
        source = self.sources[n]
        for _ in range(count):
            self.jobs += 1
            samples = FIRST_FINAL + self.jobs
            source.finals[self.jobs] = samples
            source.wants = False
            self.inference.decode(source, window(self.jobs, samples, source.language))

    @rule(n=st.integers(0, SOURCES - 1), data=st.data())
    def cancel(self, n: int, data: st.DataObject) -> None:
        source = self.sources[n]
        jobs = [*source.finals, *([source.partial] if source.partial is not None else []), 10**9]
        job = data.draw(st.sampled_from(jobs))
        source.finals.pop(job, None)
        if job == source.partial:
            source.partial = None
        self.inference.cancel(source, job)

    @rule(n=st.integers(0, SOURCES - 1))
    def forget(self, n: int) -> None:
        source = self.sources[n]
        source.finals.clear()
        source.wants, source.partial = False, None
        self.inference.forget(source)

    @rule(empty=st.booleans())
    def have_windows(self, empty: bool) -> None:
        self.is_empty_handed = empty

    # --- what Triton does

    @rule(data=st.data(), outcome=st.sampled_from(["ok", "ok", "ok", REFUSED, FAILED, LATE, GONE, DEAD]))
    def answer(self, data: st.DataObject, outcome: str | InferenceError) -> None:
        calls = self.calls()
        if not calls:
            return
        call = data.draw(st.sampled_from(range(len(calls))))
        samples = calls[call].asked.samples
        if isinstance(outcome, str):
            calls[call].answer()
        else:
            if outcome is REFUSED:
                self.may_fail.add(samples)
            calls[call].fail(outcome)

    @rule(address=st.sampled_from(ADDRESSES), fault=st.sampled_from(["is_alive", "hangs"]), on=st.booleans())
    def break_triton(self, address: str, fault: str, on: bool) -> None:
        setattr(self.network.clients[address], fault, on != (fault == "is_alive"))

    @rule(address=st.sampled_from(ADDRESSES), model=st.sampled_from(sorted(MODELS.values())))
    def kill_stub(self, address: str, model: str) -> None:
        self.network.clients[address].dead.add(model)

    @rule(seconds=st.sampled_from([0.0, 0.0, 0.0, 0.05, 0.5, 3.0, 12.0]))
    def wait(self, seconds: float) -> None:
        self.runner.run(asyncio.sleep(seconds))
        self.settle()

    # --- what must hold

    @invariant()
    def nothing_was_violated(self) -> None:
        assert not self.violations

    @invariant()
    def the_limit_holds(self) -> None:
        for client in self.network.clients.values():
            in_flight = Counter(call.asked.model for call in client.calls)
            assert all(count <= LIMIT for count in in_flight.values())

    @invariant()
    def no_window_is_with_triton_twice(self) -> None:
        lengths = Counter(call.asked.samples for call in self.calls())
        assert all(count == 1 for count in lengths.values())

    def teardown(self) -> None:
        """When all is well again, everything that is owed comes, and nothing is left over."""
        try:
            if self.sources:
                self.recover()
                self.runner.run(self.close())
        finally:
            self.runner.close()

    def recover(self) -> None:
        for client in self.network.clients.values():
            client.is_alive, client.hangs = True, False
            client.seconds = 0.01
        for call in self.calls():
            call.answer()
        self.runner.run(asyncio.sleep(90))
        self.nothing_was_violated()
        for source in self.sources:
            assert not source.finals, "a final was never answered"
            assert source.partial is None, "a partial was never answered"
            assert not source.wants, "a partial was never taken"
        health = self.inference.health()
        assert health.is_healthy
        assert all(m.in_flight == m.waiting_finals == m.waiting_partials == 0 for m in health.models)
        assert self.inference._scheduler.is_empty

    async def close(self) -> None:
        await self.inference.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}


TestInference = InferenceMachine.TestCase
TestInference.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)
