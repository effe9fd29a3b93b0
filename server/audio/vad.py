"""Voice activity: the Silero model, batched over sessions, off the event loop.

The model (https://github.com/snakers4/silero-vad, MIT) hears windows of 512 samples, 32 ms at 16 kHz, each with the 64
samples before it, and carries an LSTM's state from one to the next.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# ONNX Runtime reports its use to its makers unless told otherwise before it is first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

from server.audio.silero import CONTEXT, HIDDEN, WINDOW, batched_graph

_STEPS_AT_ONCE: Final = 16
_WINDOWS_AT_ONCE: Final = 256
"""Bounds of one run of the model: about 10 MB of scratch memory and 4 ms."""
_CROWD: Final = 64
"""Jobs in a batch from which company is waited for longer: those of a hundred streams."""
_OUTPUTS: Final = ["speech", "next_hidden", "next_cell"]
_MEMORY_BYTES: Final = 2 * HIDDEN * 4
_CONTEXT_BYTES: Final = CONTEXT * 2

log = logging.getLogger(__name__)

Probabilities = NDArray[np.float32]
Samples = NDArray[np.int16]


class VadOverloadedError(RuntimeError):
    """More audio waits for voice activity than the limit allows; send it again after a moment."""


class VadClosedError(RuntimeError):
    """The service was closed before this audio was looked at."""


class VadFailedError(RuntimeError):
    """The model failed on the batch this audio was in; the cause is chained. Sending it again may work."""


@dataclass(frozen=True, slots=True)
class VadState:
    """What the model remembers of a stream. Opaque.

    Bytes instead of arrays: a whole batch of them is joined, and cut apart again, at a fraction of the cost.

    Attributes:
        memory: the LSTM's hidden and cell state, float32, shape (2, 128).
        context: the last 64 samples, int16.
    """

    memory: bytes
    context: bytes

    @staticmethod
    def initial() -> VadState:
        """The state at the start of a stream."""
        return _INITIAL


_INITIAL: Final = VadState(bytes(_MEMORY_BYTES), bytes(_CONTEXT_BYTES))

Job = tuple[VadState, Samples]
Result = tuple[Probabilities, VadState]
Answer = Callable[[Result | Exception], None]
"""Takes what became of a job, on the event loop; an exception is one of `VadClosedError` and `VadFailedError`."""


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
        heard = _rows([part for state, samples in jobs for part in (state.context, samples)], np.int16, len(jobs))
        memory = _rows([state.memory for state, _ in jobs], np.float32, len(jobs))
        hidden, cell = (np.ascontiguousarray(half)[None] for half in np.split(memory, 2, axis=1))
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
        # Pieces of bytes are copies, so that no stream keeps the memory of its whole batch alive.
        memories = _cut(np.concatenate([hidden[0], cell[0]], axis=1), _MEMORY_BYTES)
        contexts = _cut(heard[:, -CONTEXT:], _CONTEXT_BYTES)
        return list(zip(speech, map(VadState, memories, contexts), strict=True))


def _rows(parts: Sequence[Any], dtype: type[np.generic], rows: int) -> NDArray[Any]:
    """What lies in `parts`, bytes and arrays, as an array of so many rows."""
    return np.frombuffer(b"".join(parts), dtype).reshape(rows, -1)


def _cut(array: NDArray[Any], size: int) -> list[bytes]:
    """The rows of an array, `size` bytes each."""
    whole = array.tobytes()
    return [whole[start : start + size] for start in range(0, len(whole), size)]


class VadService:
    """Voice activity for many sessions, computed in one thread: what waits while a batch is computed is the next batch.

    All of its state belongs to the event loop that it is used on; the thread sees only batches. ONNX Runtime releases
    the GIL while it computes, so the loop runs on.

    Args:
        detector: the model; this service is its only user.
        gather_ms: how long a first waiting job waits for company. Larger batches cost less per window, and every
            batch costs two switches between threads. In a crowd it is twice that: most jobs hold two windows then,
            and the sessions have half as many answers to deal with.
        max_waiting: limit of the windows that wait, over all sessions. A single job may be larger.
    """

    def __init__(self, detector: VoiceDetector, *, gather_ms: float = 16.0, max_waiting: int = 16384) -> None:
        self._detector = detector
        self._gather_s = gather_ms / 1000
        self._max_waiting = max_waiting
        self._jobs: list[Job] = []
        self._answers: list[Answer] = []
        """Those to the jobs that wait."""
        self._waiting_windows = 0
        self._in_work: list[Answer] = []
        """Those to the batch that the thread has."""
        self._is_idle = asyncio.Event()
        """The thread has no batch."""
        self._is_idle.set()
        self._is_due = False
        """What waits has waited long enough."""
        self._is_crowded = False
        """The newest batch was a large one."""
        self._timer: asyncio.TimerHandle | None = None
        self._batches: SimpleQueue[list[Job] | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, state: VadState, samples: Samples, answer: Answer) -> None:
        """Has `answer` called with the probabilities of the k windows in `samples`, shape (k * 512,), and the next
        state, or with the reason why not. It is called later and once; `samples` must not change until then.

        Raises:
            ValueError: `samples` is no whole number of windows.
            VadOverloadedError: too many windows wait already.
            VadClosedError: the service was closed.
        """
        check_samples(samples)
        if self._closed:
            raise VadClosedError("voice activity is closed")
        windows = samples.size // WINDOW
        if self._jobs and self._waiting_windows + windows > self._max_waiting:
            raise VadOverloadedError(
                f"{self._waiting_windows} windows wait for voice activity, the limit is {self._max_waiting}: "
                "send slower, or to a server with fewer sessions"
            )
        self._jobs.append((state, samples))
        self._answers.append(answer)
        self._waiting_windows += windows
        if self._timer is None and not self._is_due:
            gather_s = 2 * self._gather_s if self._is_crowded else self._gather_s
            self._timer = self._started_loop().call_later(gather_s, self._on_timer)

    async def detect(self, state: VadState, samples: Samples) -> Result:
        """As `submit`, for one who waits; cancelling the caller harms no other.

        Raises:
            ValueError, VadOverloadedError, VadClosedError: as `submit`.
            VadFailedError: the model failed.
        """
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def answer(outcome: Result | Exception) -> None:
            if result.done():
                return
            if isinstance(outcome, Exception):
                result.set_exception(outcome)
            else:
                result.set_result(outcome)

        self.submit(state, samples, answer)
        return await result

    async def close(self) -> None:
        """Lets the batch in work finish, fails what waits, and ends the thread. May be called again."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        _, answers = self._take()
        _answer_all(answers, [VadClosedError("voice activity was closed") for _ in answers])
        await self._is_idle.wait()
        if self._thread is not None:
            self._batches.put(None)
            self._thread.join()
            self._thread = None

    def _started_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = loop = asyncio.get_running_loop()
            # A daemon: a loop that was torn down with a batch in work must not keep the process.
            self._thread = threading.Thread(target=self._compute, args=(loop,), name="voice-activity", daemon=True)
            self._thread.start()
        return self._loop

    def _on_timer(self) -> None:
        self._timer, self._is_due = None, True
        if self._is_idle.is_set():
            self._send()

    def _send(self) -> None:
        """Gives the thread what waits."""
        jobs, self._in_work = self._take()
        self._is_crowded = len(jobs) >= _CROWD
        self._is_idle.clear()
        self._batches.put(jobs)

    def _take(self) -> tuple[list[Job], list[Answer]]:
        taken = self._jobs, self._answers
        self._jobs, self._answers, self._waiting_windows, self._is_due = [], [], 0, False
        return taken

    def _compute(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the thread: one batch after the other."""
        while (jobs := self._batches.get()) is not None:
            outcomes: Sequence[Result | Exception]
            try:
                outcomes = self._detector.detect(jobs)
            except Exception as error:
                outcomes = [_failed(error) for _ in jobs]
            # The loop may have been torn down meanwhile; then nobody waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._landed, outcomes)

    def _landed(self, outcomes: Sequence[Result | Exception]) -> None:
        answers, self._in_work = self._in_work, []
        self._is_idle.set()
        if self._is_due:
            self._send()
        _answer_all(answers, outcomes)


def _failed(cause: Exception) -> VadFailedError:
    # One for each job: they gather tracebacks in different places.
    error = VadFailedError(f"voice activity failed: {cause}")
    error.__cause__ = cause
    return error


def _answer_all(answers: Sequence[Answer], outcomes: Sequence[Result | Exception]) -> None:
    for answer, outcome in zip(answers, outcomes, strict=True):
        try:
            answer(outcome)
        except Exception:
            log.exception("an answer about voice activity was not taken")
