"""Inference for all sessions of a process: windows in, words out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from tritonclient.grpc.service_pb2 import ModelInferRequest

from server import tracing
from server.inference import wire
from server.inference.client import TritonClient
from server.inference.delays import DelayEstimate
from server.inference.errors import Fault, InferenceError
from server.inference.health import HealthMonitor
from server.inference.news import News
from server.inference.observer import InferenceObserver, NullObserver
from server.inference.punctuator import Punctuator
from server.inference.replica import Client, Pool, Replica, Triton
from server.inference.report import InferenceHealth, ModelHealth, ReplicaHealth, model_health
from server.inference.scheduler import PartialSource, Scheduler, State, Ticket
from server.inference.settings import InferenceSettings
from server.session.commands import NO_TOKENS, Decode
from server.session.segment import Hypothesis

__all__ = ["Inference", "InferenceHealth", "ModelHealth", "PartialSource", "ReplicaHealth"]

log = logging.getLogger(__name__)

SWEEP_S = 1.0
"""How often waiting finals are checked against their deadline."""


class Inference:
    """Ranks and bounds the work of all sessions, and sends it to the Tritons that are fit for it.

    All methods must be called on the event loop; answers come on it too, never within the call that asks. One object
    serves a process from `start` to `close`.
    """

    def __init__(
        self,
        settings: InferenceSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        observer: InferenceObserver | None = None,
        connect: Callable[[str], Client] = TritonClient,
    ) -> None:
        """
        Args:
            settings: what to serve and where.
            clock: seconds; the clock of `since` in `want_partial`.
            observer: told what happens.
            connect: makes the client for an address; called in `start`.
        """
        self._settings = settings
        self._clock = clock
        self._observer = observer or NullObserver()
        self._connect = connect
        self._scheduler = Scheduler(route.name for route in settings.models)
        self._routes = {code: route.name for route in reversed(settings.models) for code in route.languages}
        self._pools: dict[str, Pool] = {}
        self._speech: list[Pool] = []
        self._punctuator: Punctuator | None = None
        self._tritons: list[Triton] = []
        self._loop: asyncio.AbstractEventLoop
        self._monitor: HealthMonitor | None = None
        self._news = News(lambda: all(pool.is_up for pool in self._speech))
        self._flights: dict[asyncio.Task[Hypothesis], tuple[Ticket, Replica, float]] = {}
        self._calls: dict[Ticket, asyncio.Task[Hypothesis]] = {}
        self._final_delays, self._partial_delays = DelayEstimate(), DelayEstimate()
        self._pump_handle: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._is_open = False

    # --- life

    async def start(self) -> None:
        """Connects and has every model do a first inference. Returns when each has been tried once, whether it
        answered or not: see `health`."""
        settings, now = self._settings, self._clock()
        self._loop = asyncio.get_running_loop()
        self._tritons = [Triton(self._connect(address), now) for address in settings.addresses]
        window = wire.probe_window()
        for route in settings.models:
            language = "en" if "en" in route.languages else min(route.languages - {"auto"}, default="auto")
            probe = wire.asr_request(route.name, Decode(0, window, language))
            self._speech.append(self._make_pool(route.name, route.max_in_flight, probe, now))
        if settings.punctuation_languages:
            name, language = settings.punctuation_model, min(settings.punctuation_languages)
            probe = wire.punctuation_request(name, wire.PROBE_TEXT, "", language)
            self._make_pool(name, settings.punctuation_in_flight, probe, now)
        self._monitor = HealthMonitor(
            list(self._pools.values()), settings, self._clock, self._observer, self._on_replica_change
        )
        if (pool := self._pools.get(settings.punctuation_model)) is not None:
            timeout_s = settings.punctuation_timeout_s
            self._punctuator = Punctuator(pool, self._monitor, timeout_s, self._clock, self._observer)
        self._is_open = True
        await self._monitor.start()
        self._news.tell()

    async def close(self) -> None:
        """Ends all work without answers: what was asked for is not decoded, and nothing is called any more.

        A `punctuate` that waits gets None.
        """
        self._is_open = False
        if self._punctuator is not None:
            self._punctuator.stop()
        self._news.close()
        for handle in (self._pump_handle, self._timer):
            if handle is not None:
                handle.cancel()
        self._scheduler.forget_all()
        for task in self._flights:
            task.cancel()
        if self._monitor is not None:
            await self._monitor.close()
        await asyncio.gather(*self._flights, return_exceptions=True)
        for triton in self._tritons:
            await triton.client.close()
        if self._punctuator is not None:
            await self._punctuator.wait_closed()

    # --- what sessions want

    def languages(self) -> frozenset[str]:
        """What clients may ask for."""
        return frozenset(self._routes)

    def want_partial(self, source: PartialSource, since: float, language: str) -> None:
        """Asks for a partial: when there is room, `source.take_partial()` gives the window.

        A source has at most one waiting or under way; to want another one gives it the new rank. The smaller
        `since`, the earlier its turn, after all finals. A partial is tried once; it is not answered if it is dropped.
        """
        model = self._route(language)
        if model is None or not self._is_open:
            return
        now = self._clock()
        pool = self._pools[model]
        pool.wanted_at = now
        self._scheduler.want_partial(source, model, since, now, pool.down_seconds(now))
        self._pump_soon()

    def drop_partial(self, source: PartialSource) -> None:
        """Forgets the partial that waits or is under way for a source."""
        self._abort(self._scheduler.drop_partial(source))

    def decode(self, source: PartialSource, command: Decode) -> None:
        """Asks for a final: `source` gets either `on_hypothesis` or `on_decode_failed`, once, unless it cancels.

        Drops the source's partial, if that waits. Tried again after every fault until the model refuses the window or
        the deadline is over.
        """
        if not self._is_open:
            return
        model = self._route(command.language)
        if model is None:
            reason = f"no model hears {command.language!r}: choose one of {', '.join(sorted(self._routes))}"
            self._loop.call_soon(self._fail_unrouted, source, command.job, reason)
            return
        now = self._clock()
        pool = self._pools[model]
        pool.wanted_at = now
        self._scheduler.decode(source, model, command, now, pool.down_seconds(now))
        self._pump_soon()

    def cancel(self, source: PartialSource, job: int) -> None:
        """Forgets a decode; it is not answered. Does nothing where there is none."""
        self._abort(self._scheduler.cancel(source, job))

    def forget(self, source: PartialSource) -> None:
        """Forgets all that a source has asked for."""
        for ticket in self._scheduler.forget(source):
            self._abort(ticket)

    async def punctuate(self, text: str, context: str, language: str) -> str | None:
        """Marks and casing for `text`, which was said after `context`; None if they cannot be had in time.

        A language without a punctuation model gets its text back as it is.
        """
        if language not in self._settings.punctuation_languages:
            return text
        if self._punctuator is None or not self._is_open:
            return None
        return await self._punctuator.punctuate(text, context, language)

    # --- how it does

    def health(self) -> InferenceHealth:
        """The state of every model."""
        now, scheduler = self._clock(), self._scheduler
        reports = [
            model_health(pool, now, scheduler.waiting_finals(name), scheduler.waiting_partials(name))
            if pool in self._speech
            else model_health(pool, now)
            for name, pool in self._pools.items()
        ]
        return InferenceHealth(self.is_healthy, tuple(reports))

    @property
    def is_healthy(self) -> bool:
        """Every speech model has a Triton that answered an inference lately."""
        limit = self._settings.idle_probe_interval_s + 2 * self._settings.probe_timeout_s
        now = self._clock()
        return self._is_open and all(
            pool.is_up and pool.last_good is not None and now - pool.last_good < limit for pool in self._speech
        )

    def is_up(self, language: str) -> bool:
        """Whether the model for a language answers at the moment."""
        model = self._route(language)
        return model is not None and model in self._pools and self._pools[model].is_up

    @property
    def final_delay(self) -> float:
        """Seconds between a final's window and its answer: the 95th percentile of the last 30 s, or the age of the
        oldest one without an answer if that is more."""
        now = self._clock()
        oldest = self._scheduler.oldest_final()
        return max(self._final_delays.p95(now), now - oldest if oldest is not None else 0.0)

    @property
    def partial_delay(self) -> float:
        """Seconds between the wish for a partial and its answer: the 95th percentile of the last 30 s, or how long the
        next one has waited if that is more. Time without any Triton does not count."""
        now = self._clock()
        waits = [self._waited(ticket, now) for ticket in self._scheduler.first_partials()]
        return max([self._partial_delays.p95(now), *waits])

    def on_trouble(self, callback: Callable[[bool], None]) -> None:
        """Has `callback(False)` called when a speech model has no Triton left, and `callback(True)` when all of them
        have one again; also once in `start`."""
        self._news.listen(callback)

    def _make_pool(self, name: str, limit: int, probe: ModelInferRequest, now: float) -> Pool:
        replicas = [Replica(triton, name, limit) for triton in self._tritons]
        pool = self._pools[name] = Pool(name, replicas, probe, now)
        return pool

    # --- sending

    def _route(self, language: str) -> str | None:
        return self._routes.get(language) or self._routes.get(language.lower().replace("_", "-").split("-")[0])

    def _pump_soon(self) -> None:
        # Once for all that is wanted in this turn of the loop, so that its ranks decide and not its order.
        if self._pump_handle is None and self._is_open:
            self._pump_handle = self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Sends what there is room for."""
        self._pump_handle = None
        now = self._clock()
        for pool in self._speech:
            while (replica := pool.pick()) is not None:
                ticket = self._scheduler.next(pool.name, now)
                if ticket is None:
                    break
                assert ticket.command is not None
                model = self._route(ticket.command.language)
                if model is not None and model != pool.name:
                    self._scheduler.reroute(ticket, model, self._pools[model].down_seconds(now))
                    self._pump_soon()
                    continue
                self._send(ticket, pool.pick(ticket.avoid) or replica, now)
            self._observer.work_changed(
                pool.name,
                pool.in_flight,
                self._scheduler.waiting_finals(pool.name),
                self._scheduler.waiting_partials(pool.name),
            )
        self._set_timer(now)

    def _send(self, ticket: Ticket, replica: Replica, now: float) -> None:
        assert ticket.command is not None
        settings = self._settings
        timeout_s = settings.partial_timeout_s
        if ticket.is_final:
            # A model that is only slow would never come to its end with it.
            remaining = settings.final_deadline_s - self._waited(ticket, now)
            timeout_s = min(settings.final_timeout_s * 2**ticket.lates, max(remaining, settings.final_timeout_s))
        replica.in_flight += 1
        context = tracing.context_of(ticket.source)
        task = self._loop.create_task(_infer(replica, ticket.command, timeout_s), context=context)
        self._flights[task] = (ticket, replica, now)
        self._calls[ticket] = task
        task.add_done_callback(self._landed)

    def _abort(self, ticket: Ticket | None) -> None:
        if ticket is not None and (task := self._calls.get(ticket)) is not None:
            task.cancel()

    def _landed(self, task: asyncio.Task[Hypothesis]) -> None:
        """A call has ended."""
        ticket, replica, sent_at = self._flights.pop(task)
        del self._calls[ticket]
        replica.in_flight -= 1
        error = _error(task)
        now = self._clock()
        is_wanted = ticket.state is State.SENT and self._is_open
        outcome = "cancelled" if not is_wanted and task.cancelled() else error.fault.value if error else "ok"
        kind = "final" if ticket.is_final else "partial"
        self._observer.request_done(replica.model, kind, now - sent_at, outcome)
        if self._monitor is not None and not task.cancelled():
            if error is None:
                self._monitor.answered(replica)
            else:
                self._monitor.failed(replica, error)
        if is_wanted and error is None:
            self._answer(ticket, task.result(), now)
        elif is_wanted and error is not None:
            self._on_error(ticket, replica, error, now)
        self._pump_soon()

    def _answer(self, ticket: Ticket, hypothesis: Hypothesis, now: float) -> None:
        job = ticket.job
        draft = ticket.command.draft if ticket.command is not None else NO_TOKENS
        if len(draft):
            self._observer.draft_used(ticket.model, len(draft), wire.common_prefix(draft, hypothesis.tokens))
        if ticket.is_final:
            self._final_delays.add(now - ticket.created, now)
        else:
            self._partial_delays.add(self._waited(ticket, now), now)
        self._scheduler.finish(ticket)
        try:
            ticket.source.on_hypothesis(job, hypothesis)
        except Exception:
            log.exception("a source failed to take its hypothesis")

    def _on_error(self, ticket: Ticket, replica: Replica, error: InferenceError, now: float) -> None:
        """Has a final tried again, unless that is of no use."""
        if error.fault in (Fault.FAILED, Fault.DEAD):
            ticket.errors += 1
        ticket.lates += error.fault is Fault.LATE
        if not ticket.is_final or error.fault is Fault.REFUSED or ticket.errors >= self._settings.final_errors:
            self._fail(ticket, error.reason)
            return
        ticket.avoid = replica.address
        self._observer.retried(ticket.model)
        settings = self._settings
        pause = min(settings.retry_first_s * 2 ** min(ticket.tries - 1, 10), settings.retry_longest_s)
        has_other = ticket.tries < len(settings.addresses) and self._pools[ticket.model].has_other(replica)
        self._scheduler.retry(ticket, now if has_other else now + pause)

    def _fail(self, ticket: Ticket, reason: str) -> None:
        job = ticket.job
        self._scheduler.finish(ticket)
        self._fail_unrouted(ticket.source, job, reason)

    def _fail_unrouted(self, source: PartialSource, job: int, reason: str) -> None:
        try:
            source.on_decode_failed(job, reason)
        except Exception:
            log.exception("a source failed to take the news of a failure")

    # --- time

    def _set_timer(self, now: float) -> None:
        """Wakes up when a pause ends, and now and then while finals wait."""
        names = [pool.name for pool in self._speech]
        times = [at for name in names if (at := self._scheduler.next_retry(name)) is not None and at > now]
        if any(self._scheduler.waiting_finals(name) for name in names):
            times.append(now + SWEEP_S)
        if not times:
            return
        if self._timer is not None:
            if now < self._timer_at <= min(times):
                return
            self._timer.cancel()
        self._timer_at = min(times)
        self._timer = self._loop.call_later(self._timer_at - now, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._clock()
        for pool in self._speech:
            self._expire(pool, now)
        self._pump_soon()

    def _expire(self, pool: Pool, now: float) -> None:
        settings = self._settings
        for ticket in self._scheduler.expired(pool.name, now - settings.final_deadline_s):
            age = now - ticket.created
            if self._waited(ticket, now) >= settings.final_deadline_s or age >= settings.outage_deadline_s:
                self._fail(ticket, f"{pool.name} gave no answer in {age:.0f} s")

    def _waited(self, ticket: Ticket, now: float) -> float:
        """Age of a ticket without the time in which no Triton could be asked."""
        return now - ticket.created - (self._pools[ticket.model].down_seconds(now) - ticket.down_before)

    # --- health

    def _on_replica_change(self, pool: Pool, replica: Replica, is_lost: bool) -> None:
        if is_lost:
            for task, (_, sent_to, _) in self._flights.items():
                if sent_to is replica:
                    task.cancel()
        has_turned = pool.note_change(self._clock())
        if pool in self._speech and has_turned:
            self._news.turned(is_loss=not pool.is_up)
        self._pump_soon()


async def _infer(replica: Replica, command: Decode, timeout_s: float) -> Hypothesis:
    request = wire.asr_request(replica.model, command)
    return wire.hypothesis(await replica.triton.client.infer(request, timeout_s))


def _error(task: asyncio.Task[Hypothesis]) -> InferenceError | None:
    """How a call failed, if it did."""
    if task.cancelled():
        return InferenceError(Fault.GONE, "the model is out of reach")
    error = task.exception()
    if error is None or isinstance(error, InferenceError):
        return error
    log.error("a window could not be sent", exc_info=error)
    return InferenceError(Fault.REFUSED, f"internal fault: {type(error).__name__}")
