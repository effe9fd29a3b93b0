"""Keeps Triton running beside an asyncio server: starts it, starts it again when it dies, stops it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from launcher.errors import LauncherError
from launcher.triton import READY_POLL_S, TritonProcess


class TritonState(StrEnum):
    """What the supervised Triton is doing."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"
    """It died; the next start is due after a pause."""


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Pauses between a death and the next start.

    Attributes:
        first_s: the first pause.
        longest_s: each pause is twice the one before, up to this.
        healthy_s: after this long in the ready state the pauses start anew.
    """

    first_s: float = 0.25
    longest_s: float = 15.0
    healthy_s: float = 60.0


class TritonSupervisor:
    """Supervises one `TritonProcess`.

    Its `start` fails when Triton does not come up the first time, for that is a matter of settings; later deaths are
    answered by starting it again, without end.
    """

    def __init__(
        self,
        process: TritonProcess,
        *,
        policy: RestartPolicy | None = None,
        on_change: Callable[[TritonState, str], None] | None = None,
    ) -> None:
        """
        Args:
            process: not started yet.
            policy: pauses between restarts.
            on_change: told every new state with a few words about why; for logs and metrics.
        """
        self.process = process
        self.restarts = 0
        self._policy = policy or RestartPolicy()
        self._on_change = on_change
        self._state = TritonState.STOPPED
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    @property
    def state(self) -> TritonState:
        """The state now."""
        return self._state

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Starts Triton and returns when all its models are ready.

        Raises:
            LauncherError: it does not come up.
        """
        try:
            await self._start_first()
        except BaseException:
            await asyncio.to_thread(self.process.stop)
            await self._set(TritonState.STOPPED, "did not start")
            raise
        self._task = asyncio.create_task(self._keep_running(), name="triton-supervisor")

    async def stop(self) -> None:
        """Stops Triton and returns when all its processes are gone."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        await asyncio.to_thread(self.process.stop)
        await self._set(TritonState.STOPPED, "stopped")

    async def wait_for(self, state: TritonState, timeout_s: float) -> None:
        """Waits until the state is reached.

        Raises:
            TimeoutError: it was not, in time.
        """
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: self._state == state)

    async def _start_first(self) -> None:
        try:
            await self._start_once()
        except LauncherError as error:
            # A crash is no matter of settings: see TritonProcess.start_ready.
            if not self.process.crashed:
                raise
            await asyncio.to_thread(self.process.stop)
            await self._set(TritonState.WAITING, str(error))
            self.restarts += 1
            await self._start_once()

    async def _start_once(self) -> None:
        await self._set(TritonState.STARTING, "starting")
        await asyncio.to_thread(self.process.start)
        loop = asyncio.get_running_loop()
        limit = self.process.options.ready_timeout_s
        deadline = loop.time() + limit
        while not await asyncio.to_thread(self.process.is_ready):
            self.process.check_alive()
            if loop.time() >= deadline:
                raise LauncherError(f"Triton was not ready within {limit:.0f} s", self.process.explain())
            # Triton has no event for readiness.
            await asyncio.sleep(READY_POLL_S)
        await self._set(TritonState.READY, "all models are ready")

    async def _keep_running(self) -> None:
        pause = self._policy.first_s
        loop = asyncio.get_running_loop()
        while True:
            since = loop.time()
            await self._wait_exit()
            if loop.time() - since >= self._policy.healthy_s:
                pause = self._policy.first_s
            await self._set(TritonState.WAITING, f"Triton ended: {self.process.explain()}")
            while True:
                await asyncio.sleep(pause)
                pause = min(pause * 2, self._policy.longest_s)
                self.restarts += 1
                try:
                    await self._start_once()
                    break
                except (LauncherError, OSError) as error:
                    await asyncio.to_thread(self.process.stop)
                    await self._set(TritonState.WAITING, str(error))

    async def _wait_exit(self) -> None:
        """Waits for the guard's end, which comes when the server and its stubs are gone."""
        if not self.process.running:
            return
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        try:
            handle = os.pidfd_open(self.process.guard_pid)
        except ProcessLookupError:
            return
        loop.add_reader(handle, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(handle)
            os.close(handle)
        await asyncio.to_thread(self.process.stop)

    async def _set(self, state: TritonState, why: str) -> None:
        async with self._changed:
            self._state = state
            self._changed.notify_all()
        if self._on_change is not None:
            self._on_change(state, why)
