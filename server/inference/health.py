"""Who is fit for work: liveness of each Triton, synthetic inferences for each model on it, and healing.

Triton calls a model ready whose process has died, so only inferences tell: real ones as long as there are any,
synthetic ones in between. A Triton that answers while a model on it does not gets that model unloaded and loaded,
for a dead process is not restarted and a plain load does not heal.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence

from server.inference.client import ModelShape, ModelState
from server.inference.errors import Fault, InferenceError
from server.inference.observer import InferenceObserver
from server.inference.replica import Pool, Replica, Triton
from server.inference.settings import InferenceSettings

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 2.0
"""Between two looks at what is down: the first, and what it grows to."""

STALL_S = 0.25
"""A call that took so much longer than it may was held up by ourselves."""


class HealthMonitor:
    """Watches every replica from `start` to `close` and tells `on_change` when one is given up or taken back.

    Its last argument is true where the calls that are under way there will not be answered.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        settings: InferenceSettings,
        clock: Callable[[], float],
        observer: InferenceObserver,
        on_change: Callable[[Pool, Replica, bool], None],
    ) -> None:
        self._pools = {pool.name: pool for pool in pools}
        self._settings = settings
        self._clock = clock
        self._observer = observer
        self._on_change = on_change
        self._random = random.Random()
        self._began = clock()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begins to watch; returns when every replica has been tried once."""
        replicas = [replica for pool in self._pools.values() for replica in pool.replicas]
        tritons = {replica.triton.address: replica.triton for replica in replicas}
        loop = asyncio.get_running_loop()
        self._tasks = [
            *(loop.create_task(self._watch_triton(t), name=f"liveness of {t.address}") for t in tritons.values()),
            *(loop.create_task(self._watch_replica(r), name=f"health of {r.model} at {r.address}") for r in replicas),
        ]
        for replica in replicas:
            await replica.probed.wait()

    async def close(self) -> None:
        """Ends all watching."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- what real work shows

    def answered(self, replica: Replica) -> None:
        """An inference has gone through."""
        replica.last_good = replica.triton.last_heard = self._clock()
        if replica.triton.live.is_set() and not replica.has_died:
            self._set_up(replica)

    def failed(self, replica: Replica, error: InferenceError) -> None:
        """An inference has not; whether that means anything is found out by a synthetic one."""
        if error.fault in (Fault.LATE, Fault.GONE):
            replica.triton.check.set()
        else:
            replica.triton.last_heard = self._clock()
        if error.fault in (Fault.DEAD, Fault.GONE):
            self._set_down(replica, error)
        if error.fault is not Fault.REFUSED:
            replica.suspect.set()

    # --- liveness of a Triton

    async def _watch_triton(self, triton: Triton) -> None:
        settings = self._settings
        pause = settings.live_interval_s
        while True:
            await _wait(triton.check, pause)
            triton.check.clear()
            asked = self._clock()
            if triton.live.is_set() and asked - triton.last_heard < settings.live_interval_s:
                continue
            try:
                await triton.client.is_live(settings.live_timeout_s)
            except InferenceError as error:
                if triton.last_heard > asked or self._clock() - asked > settings.live_timeout_s + STALL_S:
                    continue
                pause = min(pause * 1.5, LONGEST_PAUSE_S)
                self._set_gone(triton, error)
            else:
                triton.last_heard = self._clock()
                pause = settings.live_interval_s
                triton.live.set()

    def _set_gone(self, triton: Triton, error: InferenceError) -> None:
        triton.live.clear()
        for pool in self._pools.values():
            for replica in pool.replicas:
                if replica.triton is triton:
                    self._set_down(replica, InferenceError(Fault.GONE, error.reason))

    # --- synthetic inferences

    async def _watch_replica(self, replica: Replica) -> None:
        pool = self._pools[replica.model]
        pause = 0.0
        while True:
            await self._until_due(replica, pool, pause)
            progress = await self._progress(replica)
            if replica.shape is None:
                replica.shape = await self._shape(replica)
            error = await self._probe(replica, pool)
            replica.probed.set()
            if error is None:
                pause = 0.0
                continue
            pause = min(max(2 * pause, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            if error.fault is Fault.LATE and progress != await self._progress(replica):
                # It is only busy: what it works at would be lost, and it has too much to do already.
                replica.last_moved = self._clock()
            else:
                self._set_down(replica, error)
                if self._may_heal(replica, error):
                    await self._heal(replica, pool)
                    pause = 0.0

    async def _until_due(self, replica: Replica, pool: Pool, pause: float) -> None:
        """Waits until the replica has to be tried."""
        settings = self._settings
        while replica.is_up and not replica.suspect.is_set() and replica.last_good is not None:
            is_wanted = pool.wanted_at > replica.last_good
            interval = settings.probe_interval_s if is_wanted else settings.idle_probe_interval_s
            remaining = max(replica.last_good, replica.last_moved) + interval - self._clock()
            if remaining <= 0:
                return
            await _wait(replica.suspect, min(remaining, settings.probe_interval_s))
        replica.suspect.clear()
        if not replica.is_up and replica.probed.is_set():
            if pause:
                await asyncio.sleep(pause * self._random.uniform(0.8, 1.2))
            await replica.triton.live.wait()

    async def _progress(self, replica: Replica) -> int | None:
        try:
            return await replica.triton.client.progress(replica.model, self._settings.live_timeout_s)
        except InferenceError:
            return None

    async def _shape(self, replica: Replica) -> ModelShape | None:
        try:
            return await replica.triton.client.shape(replica.model, self._settings.live_timeout_s)
        except InferenceError:
            return None

    async def _probe(self, replica: Replica, pool: Pool) -> InferenceError | None:
        """A synthetic inference. Where a process was found dead, so many that every process gets some: one after the
        other, for Triton gives work to the one that has waited longest, and at once they might share a batch."""
        count = 2 * (replica.shape.instances if replica.shape is not None else 1) if replica.has_died else 1
        for _ in range(count):
            error = await self._probe_once(replica, pool)
            if error is not None:
                return error
        replica.has_died = False
        self.answered(replica)
        return None

    async def _probe_once(self, replica: Replica, pool: Pool) -> InferenceError | None:
        begun = self._clock()
        outcome = "ok"
        try:
            await replica.triton.client.infer(pool.probe, self._settings.probe_timeout_s)
        except InferenceError as error:
            outcome = error.fault.value
            return error
        else:
            return None
        finally:
            self._observer.request_done(replica.model, "probe", self._clock() - begun, outcome)

    def _set_up(self, replica: Replica) -> None:
        # A stale alarm would have it probed once more for nothing.
        replica.suspect.clear()
        if not replica.is_up:
            replica.is_up, replica.reason = True, ""
            log.info("%s at %s answers", replica.model, replica.address)
            self._changed(replica)

    def _set_down(self, replica: Replica, error: InferenceError) -> None:
        was_up, replica.is_up, replica.reason = replica.is_up, False, error.reason
        replica.has_died |= error.fault is Fault.DEAD
        if error.fault is Fault.GONE:
            replica.shape = None  # the next one may be another
        if was_up:
            log.warning("%s at %s is left out: %s", replica.model, replica.address, error.reason)
            replica.suspect.set()
        if was_up or error.fault is not Fault.LATE:
            self._changed(replica, is_lost=error.fault is not Fault.LATE)

    def _changed(self, replica: Replica, *, is_lost: bool = False) -> None:
        self._observer.replica_changed(replica.address, replica.model, replica.is_up, replica.reason)
        self._on_change(self._pools[replica.model], replica, is_lost)

    # --- healing

    def _may_heal(self, replica: Replica, error: InferenceError) -> bool:
        if error.fault is Fault.REFUSED or not replica.triton.live.is_set():
            return False
        now = self._clock()
        last_sign = max(replica.last_good or self._began, replica.last_moved)
        if error.fault is Fault.LATE and now - last_sign < self._settings.stuck_after_s:
            return False
        return replica.healed_at is None or now - replica.healed_at >= replica.heal_pause

    async def _heal(self, replica: Replica, pool: Pool) -> None:
        """Unloads and loads the model, unless somebody else has done it or is at it."""
        async with replica.triton.healing:
            # Other gateways have noticed at the same moment; one of them should be first.
            await asyncio.sleep(self._random.uniform(0.0, self._settings.heal_jitter_s))
            try:
                state = await replica.triton.client.model_state(replica.model, self._settings.live_timeout_s)
            except InferenceError:
                replica.triton.check.set()
                await asyncio.sleep(FIRST_PAUSE_S)
                return
            if state is ModelState.LOADING:
                await asyncio.sleep(FIRST_PAUSE_S)
            elif state is not ModelState.READY:
                await self._reload(replica, unload=False)
            elif (error := await self._probe(replica, pool)) is not None and replica.triton.live.is_set():
                log.warning("%s at %s is unloaded and loaded: %s", replica.model, replica.address, error.reason)
                await self._reload(replica, unload=True)

    async def _reload(self, replica: Replica, *, unload: bool) -> None:
        settings, client = self._settings, replica.triton.client
        begun = self._clock()
        worked = False
        try:
            if unload:
                await client.unload(replica.model, settings.load_timeout_s)
            # Not waited for until it is unloaded: that never ends where its process hangs, and loading works anyway.
            await client.load(replica.model, settings.load_timeout_s)
            worked = True
        except InferenceError as error:
            hint = "; start Triton with --model-control-mode=explicit" if "not allowed" in error.reason else ""
            log.error("%s at %s could not be healed: %s%s", replica.model, replica.address, error.reason, hint)
        now = self._clock()
        is_first = replica.healed_at is None or now - replica.healed_at > 2 * settings.heal_longest_s
        pause = settings.heal_first_s if is_first else 2 * replica.heal_pause
        replica.healed_at, replica.heal_pause = now, min(pause, settings.heal_longest_s)
        self._observer.healed(replica.address, replica.model, now - begun, worked)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    """Until the event is set, but no longer than that."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
