from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray

from server.audio.ring import SampleBuffer

SECOND = 16000


class BufferMachine(RuleBasedStateMachine):
    """The buffer beside a plain array that forgets nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = SampleBuffer(100)
        self.start = self.first = 100
        self.everything = np.empty(0, np.int16)
        self.views: list[tuple[NDArray[np.int16], NDArray[np.int16]]] = []
        self.counter = 0

    @property
    def end(self) -> int:
        return self.first + self.everything.size

    @rule(count=st.one_of(st.integers(0, 50), st.integers(0, 4 * SECOND)))
    def append(self, count: int) -> None:
        samples = np.arange(self.counter, self.counter + count).astype(np.int16)
        self.counter += count
        self.buffer.append(samples)
        self.everything = np.concatenate([self.everything, samples])
        samples[:] = -1

    @rule(part=st.floats(0, 1), back=st.integers(0, 10))
    def drop_before(self, part: float, back: int) -> None:
        offset = self.start + round(part * (self.end - self.start)) - back
        self.buffer.drop_before(offset)
        self.start = max(self.start, offset)

    @rule(low=st.floats(0, 1), high=st.floats(0, 1))
    def view(self, low: float, high: float) -> None:
        span = self.end - self.start
        start, stop = (self.start + round(part * span) for part in sorted((low, high)))
        view = self.buffer.view(start, stop)
        np.testing.assert_array_equal(view, self.everything[start - self.first : stop - self.first])
        assert not view.flags.writeable
        self.views.append((view, view.copy()))

    @precondition(lambda self: self.counter > 0)
    @rule(offset=st.integers(0, 10**9))
    def clear(self, offset: int) -> None:
        self.buffer.clear(offset)
        self.start = self.first = offset
        self.everything = np.empty(0, np.int16)

    @invariant()
    def agrees(self) -> None:
        assert (self.buffer.start, self.buffer.end) == (self.start, self.end)
        assert len(self.buffer) == self.end - self.start
        assert self.buffer.nbytes <= max(2 * SECOND, 4 * 2 * len(self.buffer))

    @invariant()
    def views_never_change(self) -> None:
        for view, content in self.views:
            np.testing.assert_array_equal(view, content)


TestBuffer = BufferMachine.TestCase
TestBuffer.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_ranges_that_are_not_kept_are_refused() -> None:
    buffer = SampleBuffer()
    buffer.append(np.zeros(100, np.int16))
    buffer.drop_before(10)
    for start, stop in ((9, 20), (20, 101), (30, 20)):
        with pytest.raises(IndexError, match="holds 10 to 100"):
            buffer.view(start, stop)
    with pytest.raises(IndexError, match="ends at 100"):
        buffer.drop_before(101)
    assert buffer.view(10, 10).size == 0


def test_appending_moves_each_sample_a_bounded_number_of_times() -> None:
    buffer = SampleBuffer()
    frame = np.zeros(320, np.int16)
    stores, moved, held = 0, 0, None
    for _ in range(20000):
        buffer.append(frame)
        buffer.drop_before(buffer.end - SECOND)
        store = buffer.view(buffer.start, buffer.end).base
        if store is not held:
            stores, moved, held = stores + 1, moved + len(buffer), store
    assert stores > 1
    assert moved <= 2 * buffer.end
