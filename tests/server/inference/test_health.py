"""Probing, giving up and healing, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from server.inference.client import ModelShape, ModelState
from server.inference.errors import Fault, InferenceError
from server.inference.observer import NullObserver
from server.inference.service import Inference
from tests.server.inference.scripted import (
    DEAD,
    FAILED,
    LATE,
    REFUSED,
    Network,
    ScriptedClient,
    Source,
    settings,
    settle,
    window,
)
from tests.server.inference.test_service import virtually


class Noting(NullObserver):
    def __init__(self) -> None:
        self.changes: list[tuple[str, str, bool]] = []
        self.healings: list[tuple[str, str, bool]] = []
        self.told = asyncio.Event()

    def replica_changed(self, address: str, model: str, is_up: bool, reason: str) -> None:
        assert bool(reason) != is_up
        self.changes.append((address, model, is_up))

    def healed(self, address: str, model: str, seconds: float, worked: bool) -> None:
        self.healings.append((address, model, worked))
        self.told.set()


class Rig:
    """Inference over scripted clients, and what it told."""

    def __init__(self, network: Network, **others: object) -> None:
        self.tritons = list(network.clients.values())
        self.observer = Noting()
        self.news: list[bool] = []
        self.clock = asyncio.get_running_loop().time
        self.inference = Inference(
            settings(*network.clients, **others),  # type: ignore[arg-type]
            clock=self.clock,
            observer=self.observer,
            connect=network.connect,
        )
        self.inference.on_trouble(self.news.append)

    @property
    def triton(self) -> ScriptedClient:
        return self.tritons[0]

    def loads(self) -> list[str]:
        return [entry for entry in self.triton.log if not entry.startswith("probe")]

    async def meet_a_dead_process(self) -> Source:
        """A window is answered by a process that is dead; who wants its words."""
        source = Source()
        self.inference.decode(source, window(5))
        await settle()
        self.triton.call(3200).fail(DEAD)
        return source

    def probes(self, model: str = "asr") -> int:
        return self.triton.log.count(f"probe {model}")


@asynccontextmanager
async def rig(*addresses: str, network: Network | None = None, **others: object) -> AsyncIterator[Rig]:
    made = Rig(network or Network(*addresses), **others)
    try:
        await made.inference.start()
        yield made
    finally:
        await made.inference.close()


@virtually
async def test_every_model_is_tried_at_every_triton_before_start_returns() -> None:
    async with rig("one", "two") as r:
        assert [triton.log for triton in r.tritons] == [["probe asr", "probe asr_multilingual"]] * 2
        assert r.inference.is_healthy
        assert r.news == [True]
        assert r.inference.is_up("en")


@virtually
async def test_start_returns_without_triton() -> None:
    network = Network("one")
    network.clients["one"].is_alive = False
    async with rig(network=network) as r:
        assert r.news == [False]
        assert not r.inference.is_healthy
        r.triton.is_alive = True
        await asyncio.sleep(3)
        assert r.news == [False, True]
        assert r.inference.is_healthy


@virtually
async def test_start_returns_when_triton_hangs() -> None:
    network = Network("one")
    network.clients["one"].hangs = True
    async with rig(network=network) as r:
        assert r.news == [False]


@virtually
async def test_an_idle_model_is_tried_now_and_then() -> None:
    async with rig(idle_probe_interval_s=10.0) as r:
        before = r.probes()
        await asyncio.sleep(61)
        assert r.probes() - before == 6
        assert r.inference.is_healthy


@virtually
async def test_a_model_that_is_wanted_and_silent_is_tried_soon() -> None:
    async with rig(probe_interval_s=2.0) as r:
        await asyncio.sleep(1)
        before = r.probes()
        r.inference.decode(Source(), window(1))
        await asyncio.sleep(2)
        assert r.probes() - before == 1


@virtually
async def test_real_answers_make_synthetic_ones_needless() -> None:
    async with rig() as r:
        r.triton.seconds = 0.01
        before = r.probes()
        source = Source()
        for job in range(60):
            r.inference.decode(source, window(job))
            await asyncio.sleep(0.5)
        assert len(source.answers) == 60
        assert r.probes() == before
        assert r.probes("asr_multilingual") > 1


@virtually
async def test_a_dead_stub_is_healed() -> None:
    async with rig() as r:
        await asyncio.sleep(1)
        r.triton.dead.add("asr")
        r.triton.load_s = 2.0
        begun = r.clock()
        source = Source()
        r.inference.decode(source, window(5))
        await asyncio.sleep(4)
        assert r.loads() == ["unload asr", "load asr"]
        assert r.news == [True, False, True]
        assert r.observer.healings == [("one", "asr", True)]
        r.triton.call(3200).answer()
        await source.answered(1)
        assert source.answers == [(5, "3200 samples")]
        assert r.clock() - begun < 5


@pytest.mark.parametrize("instances", [2, 4])
@virtually
async def test_a_dead_process_among_others_is_healed(instances: int) -> None:
    network = Network()
    triton = network.clients["one"]
    triton.shapes["asr"] = ModelShape(instances)
    async with rig(network=network) as r:
        triton.one_dead.add("asr")
        triton.load_s = 2.0
        source = await r.meet_a_dead_process()
        await asyncio.sleep(4)
        assert r.loads() == ["unload asr", "load asr"]
        assert r.news == [True, False, True]
        triton.call(3200).answer()
        await source.answered(1)
        assert source.answers == [(5, "3200 samples")]


@virtually
async def test_an_answer_of_a_living_process_does_not_hide_a_dead_one() -> None:
    network = Network()
    triton = network.clients["one"]
    triton.shapes["asr"] = ModelShape(instances=2)
    async with rig(network=network) as r:
        triton.one_dead.add("asr")
        triton.load_s = 2.0
        source = Source()
        r.inference.decode(Source(), window(5))
        r.inference.decode(source, window(6, samples=4800))
        await settle()
        triton.call(3200).fail(DEAD)
        triton.call(4800).answer()
        await source.answered(1)
        assert not r.inference.is_up("en")
        await asyncio.sleep(4)
        assert r.loads() == ["unload asr", "load asr"]


@virtually
async def test_a_dead_process_is_healed_though_another_is_late() -> None:
    network = Network()
    triton = network.clients["one"]
    triton.shapes["asr"] = ModelShape(instances=2)
    async with rig(network=network) as r:
        triton.one_dead.add("asr")
        triton.probe_errors["asr"] = LATE
        await r.meet_a_dead_process()
        await asyncio.sleep(4)
        assert r.loads() == ["unload asr", "load asr"]


@virtually
async def test_what_another_gateway_has_healed_is_not_healed_again() -> None:
    async with rig() as r:
        source = await r.meet_a_dead_process()
        await asyncio.sleep(4)
        assert r.loads() == []
        r.triton.call(3200).answer()
        await source.answered(1)


@virtually
async def test_as_many_windows_are_sent_as_suit_the_instances() -> None:
    network = Network("cpu", "gpu")
    cpu, gpu = network.clients.values()
    cpu.shapes["asr"] = ModelShape(instances=2)
    gpu.shapes["asr"] = ModelShape(instances=1, max_batch=4, on_gpu=True)
    async with rig(network=network, limit=0) as r:
        sources = [Source(first_job=1000 * number) for number in range(20)]
        for source in sources:
            r.inference.decode(source, window(source.jobs))
        await settle()
        assert (len(cpu.windows()), len(gpu.windows())) == (3, 8)


@virtually
async def test_a_triton_that_comes_back_may_serve_a_model_otherwise() -> None:
    async with rig(limit=0) as r:
        r.triton.is_alive = False
        await asyncio.sleep(10)
        assert not r.inference.is_up("en")
        r.triton.shapes["asr"] = ModelShape(instances=2, hands=2)
        r.triton.is_alive = True
        await asyncio.sleep(10)
        for number in range(10):
            r.inference.decode(Source(), window(number))
        await settle()
        assert len(r.triton.windows()) == 6


@virtually
async def test_what_the_operator_says_counts() -> None:
    network = Network()
    network.clients["one"].shapes["asr"] = ModelShape(instances=4)
    async with rig(network=network, limit=1) as r:
        for number in range(3):
            r.inference.decode(Source(), window(number))
        await settle()
        assert len(r.triton.windows()) == 1


@virtually
async def test_a_dead_stub_is_found_though_nobody_speaks() -> None:
    async with rig(idle_probe_interval_s=10.0) as r:
        r.triton.dead.add("asr_multilingual")
        r.triton.load_s = 2.0
        await asyncio.sleep(15)
        assert r.loads() == ["unload asr_multilingual", "load asr_multilingual"]
        assert r.news == [True, False, True]
        assert r.inference.is_up("es")


@virtually
async def test_trouble_of_one_model_leaves_the_other_at_work() -> None:
    async with rig() as r:
        r.triton.dead.add("asr_multilingual")
        r.triton.load_error = FAILED
        r.triton.seconds = 0.01
        spanish, english = Source("es"), Source("en")
        r.inference.decode(spanish, window(1, language="es"))
        await asyncio.sleep(1)
        r.inference.decode(english, window(1))
        await english.answered(1)
        assert (r.inference.is_up("es"), r.inference.is_up("en")) == (False, True)
        assert r.news == [True, False]
        assert not r.inference.is_healthy


@virtually
async def test_healing_that_fails_is_tried_again_ever_more_rarely() -> None:
    async with rig(heal_first_s=1.0, heal_longest_s=16.0) as r:
        r.triton.dead.add("asr")
        r.triton.load_error = FAILED
        r.inference.decode(Source(), window(1))
        times: list[float] = []
        for _ in range(1200):
            await asyncio.sleep(0.1)
            if len(r.observer.healings) > len(times):
                times.append(r.clock())
        gaps = [after - before for before, after in pairwise(times)]
        assert all(not worked for _, _, worked in r.observer.healings)
        assert gaps[0] < 4
        assert all(later >= earlier - 4 for earlier, later in pairwise(gaps))
        assert 15 < gaps[-1] < 21
        r.triton.load_error = None
        r.triton.states["asr"] = ModelState.UNLOADING
        await asyncio.sleep(25)
        assert r.inference.is_healthy


@virtually
async def test_without_model_control_the_log_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    async with rig() as r:
        r.triton.dead.add("asr")
        r.triton.load_error = InferenceError(Fault.GONE, "UNAVAILABLE: explicit model load / unload is not allowed")
        r.inference.decode(Source(), window(1))
        await asyncio.sleep(1)
    assert "--model-control-mode=explicit" in caplog.text


@virtually
async def test_a_model_that_somebody_loads_is_left_alone() -> None:
    async with rig() as r:
        r.triton.states["asr"] = ModelState.LOADING
        r.inference.decode(Source(), window(1))
        await asyncio.sleep(20)
        assert r.loads() == []
        assert not r.inference.is_up("en")
        r.triton.states["asr"] = ModelState.READY
        await asyncio.sleep(2.5)
        assert r.inference.is_up("en")


@pytest.mark.parametrize("state", [ModelState.UNAVAILABLE, ModelState.UNLOADING])
@virtually
async def test_a_model_that_somebody_unloaded_and_left_is_loaded(state: ModelState) -> None:
    async with rig() as r:
        r.triton.states["asr"] = state
        r.inference.decode(Source(), window(1))
        await asyncio.sleep(3)
        assert r.loads() == ["load asr"]
        assert r.inference.is_up("en")


@virtually
async def test_a_model_that_recovered_by_itself_is_not_unloaded() -> None:
    async with rig(heal_jitter_s=0.3) as r:
        source = Source()
        r.inference.decode(source, window(1))
        await settle()
        r.triton.probe_errors["asr"] = FAILED
        r.triton.calls[0].fail(FAILED)
        await settle()
        assert not r.inference.is_up("en")
        r.triton.probe_errors.clear()
        await asyncio.sleep(3)
        assert r.inference.is_up("en")
        assert r.loads() == []


@virtually
async def test_gateways_that_share_a_triton_heal_it_once() -> None:
    network = Network("one")
    triton = network.clients["one"]
    rigs = [Rig(network, heal_jitter_s=0.3) for _ in range(5)]
    await asyncio.gather(*(r.inference.start() for r in rigs))
    triton.dead.add("asr")
    triton.load_s = 2.0
    sources = [Source() for _ in rigs]
    for r, source in zip(rigs, sources, strict=True):
        r.inference.decode(source, window(1))
    await asyncio.sleep(12)
    assert all(r.inference.is_healthy for r in rigs)
    assert triton.log.count("unload asr") == 1
    for call in list(triton.calls):
        call.answer()
    await asyncio.gather(*(source.answered(1) for source in sources))
    assert all(source.answers and not source.failures for source in sources)
    for r in rigs:
        await r.inference.close()


@virtually
async def test_one_error_makes_no_model_unfit() -> None:
    async with rig() as r:
        source = Source()
        r.inference.decode(source, window(1))
        await settle()
        before = r.probes()
        r.triton.calls[0].fail(FAILED)
        await settle()
        assert r.probes() == before + 1
        assert r.news == [True]
        assert r.inference.is_healthy


@virtually
async def test_a_window_that_is_refused_says_nothing_about_the_model() -> None:
    async with rig() as r:
        r.inference.decode(Source(), window(1))
        await settle()
        before = r.probes()
        r.triton.calls[0].fail(REFUSED)
        await settle()
        assert r.probes() == before
        assert r.inference.is_healthy


@virtually
async def test_a_probe_that_is_refused_is_no_case_for_healing() -> None:
    async with rig() as r:
        r.triton.probe_errors["asr"] = REFUSED
        await asyncio.sleep(60)
        assert not r.inference.is_up("en")
        assert r.loads() == []


@virtually
async def test_a_triton_that_is_killed_is_noticed_and_taken_back() -> None:
    async with rig() as r:
        await asyncio.sleep(5)
        r.triton.is_alive = False
        await asyncio.sleep(1)
        assert r.news == [True, False]
        await asyncio.sleep(60)
        r.triton.is_alive = True
        await asyncio.sleep(5)
        assert r.news == [True, False, True]
        assert r.loads() == []


@virtually
async def test_a_triton_that_hangs_is_noticed_within_two_seconds() -> None:
    async with rig() as r:
        await asyncio.sleep(5.2)
        r.triton.hangs = True
        await asyncio.sleep(2.0)
        assert r.news == [True, False]
        await asyncio.sleep(60)
        r.triton.hangs = False
        await asyncio.sleep(6)
        assert r.news == [True, False, True]
        assert r.loads() == []


@virtually
async def test_a_busy_model_is_not_unfit() -> None:
    async with rig(limit=1, final_timeout_s=600.0, final_deadline_s=3600.0, stuck_after_s=20.0) as r:
        r.triton.probe_errors["asr"] = LATE
        r.triton.is_busy = True
        source = Source()
        for job in range(6):
            r.inference.decode(source, window(job, 3200 + job))
        for _ in range(6):
            await asyncio.sleep(45)
            r.triton.calls[0].answer()
        await source.answered(6)
        assert r.news == [True]
        assert r.loads() == []
        assert r.probes() > 10


@virtually
async def test_a_model_that_is_stuck_is_healed_in_the_end() -> None:
    async with rig(stuck_after_s=20.0, final_timeout_s=60.0) as r:
        r.triton.probe_errors["asr"] = LATE
        begun = r.clock()
        r.inference.decode(Source(), window(1))
        while not r.observer.healings:
            await r.observer.told.wait()
        assert 19 < r.clock() - begun < 28
        assert r.loads() == ["unload asr", "load asr"]
        r.triton.probe_errors.clear()
        await asyncio.sleep(8)
        assert r.inference.is_up("en")


@virtually
async def test_one_triton_of_two_is_enough() -> None:
    async with rig("one", "two") as r:
        r.triton.is_alive = False
        await asyncio.sleep(2)
        assert r.news == [True]
        assert r.inference.is_healthy
        for n in range(4):
            r.inference.decode(Source(), window(1, 3200 + n))
        await settle()
        assert [len(triton.calls) for triton in r.tritons] == [0, 2]
        r.triton.is_alive = True
        await asyncio.sleep(4)
        assert [len(triton.calls) for triton in r.tritons] == [2, 2]


@virtually
async def test_a_listener_that_raises_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    def broken(healthy: bool) -> None:
        raise RuntimeError("broken")

    network = Network("one")
    made = Rig(network)
    made.inference.on_trouble(broken)
    await made.inference.start()
    network.clients["one"].is_alive = False
    await asyncio.sleep(2)
    assert made.news == [True, False]
    await made.inference.close()
    assert "a listener failed" in caplog.text


@virtually
async def test_news_come_once_for_each_turn() -> None:
    async with rig() as r:
        r.triton.load_error = FAILED
        r.triton.dead.add("asr_multilingual")
        await asyncio.sleep(12)
        assert r.news == [True, False]
        r.triton.dead.add("asr")
        await asyncio.sleep(12)
        assert r.news == [True, False, False]
        r.triton.dead.discard("asr")
        r.triton.states["asr"] = ModelState.READY
        await asyncio.sleep(4)
        assert r.inference.is_up("en")
        assert r.news == [True, False, False]
        r.triton.dead.clear()
        r.triton.load_error = None
        r.triton.states.clear()
        await asyncio.sleep(4)
        assert r.news == [True, False, False, True]


@virtually
async def test_a_slow_model_keeps_what_it_works_at() -> None:
    async with rig(limit=1, final_timeout_s=60.0) as r:
        r.triton.probe_errors["asr"] = LATE
        source = Source()
        r.inference.decode(source, window(1))
        await asyncio.sleep(15)
        assert not r.inference.is_up("en")
        assert r.news == [True, False]
        r.triton.call(3200).answer()
        await source.answered(1)
        assert source.answers == [(1, "3200 samples")]
        assert r.inference.is_up("en")
