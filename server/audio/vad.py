"""Voice activity: the Silero model, batched over sessions, off the event loop.

The model (https://github.com/snakers4/silero-vad, MIT) hears windows of 512 samples, 32 ms at 16 kHz, each with the 64
samples before it, and carries an LSTM's state from one to the next.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

# ONNX Runtime reports its use to its makers unless told otherwise before it is first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

from server.audio.silero import CONTEXT, HIDDEN, WINDOW, batched_graph

_STEPS_AT_ONCE: Final = 16
_WINDOWS_AT_ONCE: Final = 256
"""Bounds of one run of the model: about 10 MB of scratch memory and 4 ms."""
_OUTPUTS: Final = ["speech", "next_hidden", "next_cell"]

Probabilities = NDArray[np.float32]
Samples = NDArray[np.int16]


class VadOverloadedError(RuntimeError):
    """More audio waits for voice activity than the limit allows; send it again after a moment."""


class VadClosedError(RuntimeError):
    """The service was closed before this audio was looked at."""


class VadFailedError(RuntimeError):
    """The model failed on the batch this audio was in; the cause is chained. Sending it again may work."""


@dataclass(frozen=True, slots=True, eq=False)
class VadState:
    """What the model remembers of a stream. Opaque; never changed in place.

    Attributes:
        memory: the LSTM's hidden and cell state, float32, shape (2, 128).
        context: the last 64 samples, int16.
    """

    memory: NDArray[np.float32]
    context: Samples

    @staticmethod
    def initial() -> VadState:
        """The state at the start of a stream."""
        return VadState(np.zeros((2, HIDDEN), np.float32), np.zeros(CONTEXT, np.int16))


Job = tuple[VadState, Samples]
Result = tuple[Probabilities, VadState]


def check_samples(samples: Samples) -> None:
    """Raises ValueError unless `samples` is a whole number of windows of int16."""
    if samples.dtype != np.int16 or samples.ndim != 1 or samples.size % WINDOW:
        raise ValueError(
            f"voice activity takes int16 of shape (k * {WINDOW},), got {samples.dtype} of shape {samples.shape}"
        )


class VoiceDetector:
    """The model itself: stateless, called from one thread at a time.

    Args:
        model: path of ``silero_vad.onnx``, which is ``silero_vad_16k_op15.onnx`` of the silero-vad package.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is another model.
    """

    def __init__(self, model: Path) -> None:
        options = ort.SessionOptions()
        # One thread: more would spin beside the event loop, and these matrices are small.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        graph = batched_graph(model.read_bytes())
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def detect(self, jobs: Sequence[Job]) -> list[Result]:
        """Returns for each job of k windows k speech probabilities, and the state to send with its next ones.

        A job's result is bit for bit the same whatever the other jobs are, and whether its windows come in one job or
        in many: each row of each product is summed in the same order whatever the number of rows.

        Raises:
            ValueError: a job's samples are no whole number of windows.
        """
        results: dict[int, Result] = {}
        # Jobs of equal length share a run: padding to one another would cost most where one stream is far longer.
        groups: dict[int, list[int]] = {}
        for index, (_, samples) in enumerate(jobs):
            check_samples(samples)
            groups.setdefault(samples.size // WINDOW, []).append(index)
        for steps, members in groups.items():
            width = _WINDOWS_AT_ONCE // min(max(steps, 1), _STEPS_AT_ONCE)
            for first in range(0, len(members), width):
                some = members[first : first + width]
                results.update(zip(some, self._detect_equal([jobs[index] for index in some], steps), strict=True))
        return [results[index] for index in range(len(jobs))]

    def _detect_equal(self, jobs: Sequence[Job], steps: int) -> list[Result]:
        """Detects in jobs of `steps` windows each."""
        heard = np.empty((len(jobs), CONTEXT + steps * WINDOW), np.int16)
        memory = np.empty((2, len(jobs), HIDDEN), np.float32)
        for row, (state, samples) in enumerate(jobs):
            heard[row, :CONTEXT] = state.context
            heard[row, CONTEXT:] = samples
            memory[:, row] = state.memory
        hidden, cell = memory[:1], memory[1:]
        speech = np.empty((len(jobs), steps), np.float32)
        for first in range(0, steps, _STEPS_AT_ONCE):
            count = min(_STEPS_AT_ONCE, steps - first)
            windows = np.empty((count, len(jobs), CONTEXT + WINDOW), np.int16)
            for step in range(count):
                start = (first + step) * WINDOW
                windows[step] = heard[:, start : start + CONTEXT + WINDOW]
            feeds = {"windows": windows, "hidden": hidden, "cell": cell}
            probabilities, hidden, cell = self._session.run(_OUTPUTS, feeds)
            speech[:, first : first + count] = probabilities.T
        memory = np.concatenate([hidden, cell])
        context = heard[:, -CONTEXT:]
        # Copies, so that no stream keeps the arrays of its whole batch alive.
        return [(speech[row].copy(), VadState(memory[:, row].copy(), context[row].copy())) for row in range(len(jobs))]


_Waiting = tuple[Job, asyncio.Future[Result]]


class VadService:
    """Voice activity for many sessions, computed in one thread: what waits while a batch is computed is the next batch.

    All of its state belongs to the event loop; the thread sees only batches. ONNX Runtime releases the GIL while it
    computes, so the loop runs on.

    Args:
        detector: the model; this service is its only user.
        gather_ms: how long a first waiting job waits for company. Larger batches cost less per window, and every
            batch costs two switches between threads.
        max_waiting: limit of the windows that wait, over all sessions. A single job may be larger.
    """

    def __init__(self, detector: VoiceDetector, *, gather_ms: float = 5.0, max_waiting: int = 16384) -> None:
        self._detector = detector
        self._gather_s = gather_ms / 1000
        self._max_waiting = max_waiting
        self._waiting: list[_Waiting] = []
        self._waiting_windows = 0
        self._thread = ThreadPoolExecutor(1, "voice-activity")
        self._batches: asyncio.Task[None] | None = None
        self._closed = False

    async def detect(self, state: VadState, samples: Samples) -> Result:
        """Returns the probabilities of the k windows in `samples`, shape (k * 512,), and the next state.

        `samples` must not change until then. Cancelling the caller harms no other.

        Raises:
            ValueError: `samples` is no whole number of windows.
            VadOverloadedError: too many windows wait already.
            VadClosedError: the service is or was closed.
            VadFailedError: the model failed.
        """
        check_samples(samples)
        if self._closed:
            raise VadClosedError("voice activity is closed")
        windows = samples.size // WINDOW
        if self._waiting and self._waiting_windows + windows > self._max_waiting:
            raise VadOverloadedError(
                f"{self._waiting_windows} windows wait for voice activity, the limit is {self._max_waiting}: "
                "send slower, or to a server with fewer sessions"
            )
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append(((state, samples), result))
        self._waiting_windows += windows
        if self._batches is None:
            self._batches = asyncio.create_task(self._run_batches(), name="voice-activity")
        return await result

    async def close(self) -> None:
        """Lets the batch in work finish, fails what waits, and ends the thread. May be called again."""
        self._closed = True
        _fail(self._take(), VadClosedError)
        if self._batches is not None:
            # Not awaited itself: cancelling close() must not cancel the batch that others wait for.
            await asyncio.wait([self._batches])
        self._thread.shutdown()

    async def _run_batches(self) -> None:
        try:
            await asyncio.sleep(self._gather_s)
            while batch := self._take():
                await self._run(batch)
                await asyncio.sleep(self._gather_s)
        finally:
            _fail(self._take(), VadClosedError)
            self._batches = None

    async def _run(self, batch: list[_Waiting]) -> None:
        jobs = [job for job, _ in batch]
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._detector.detect, jobs)
        except asyncio.CancelledError:
            # The loop is being torn down.
            _fail(batch, VadClosedError)
            raise
        except Exception as error:
            _fail(batch, VadFailedError, error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)

    def _take(self) -> list[_Waiting]:
        batch = [entry for entry in self._waiting if not entry[1].done()]
        self._waiting, self._waiting_windows = [], 0
        return batch


def _fail(batch: Sequence[_Waiting], kind: type[RuntimeError], cause: Exception | None = None) -> None:
    for _, future in batch:
        if not future.done():
            # One exception each: they gather tracebacks in different callers.
            error = kind(f"voice activity failed: {cause}" if cause else "voice activity was closed")
            error.__cause__ = cause
            future.set_exception(error)
