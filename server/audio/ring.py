"""The recent audio of one stream, addressed by absolute sample offset."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_MIN_CAPACITY: Final = 16000
"""One second at 16 kHz: below this it does not pay to shrink."""


class SampleBuffer:
    """int16 samples `start` to `end` of a stream; appends at the end, forgets from the front.

    Storage only grows forwards: memory behind the end is written once and never again, and what is kept moves to a
    fresh array when room runs out. So a view stays right for as long as its holder wants it. Appending is amortised
    O(1) per sample; the storage is at most four times what is kept, or one second.
    """

    __slots__ = ("_end", "_first", "_start", "_store")

    def __init__(self, offset: int = 0) -> None:
        self._store: NDArray[np.int16] = np.empty(_MIN_CAPACITY, np.int16)
        self._first = offset
        """Absolute offset of `_store[0]`."""
        self._start = offset
        self._end = offset

    @property
    def start(self) -> int:
        """Offset of the oldest sample kept."""
        return self._start

    @property
    def end(self) -> int:
        """Offset after the newest sample: that of the next one to be appended."""
        return self._end

    def __len__(self) -> int:
        """Samples kept."""
        return self._end - self._start

    @property
    def nbytes(self) -> int:
        """Bytes of storage held."""
        return self._store.nbytes

    def append(self, samples: NDArray[np.int16]) -> None:
        """Adds `samples`, shape (n,), at `end`."""
        stop = self._end + samples.size
        if stop - self._first > self._store.size:
            self._move(2 * (stop - self._start))
        self._store[self._end - self._first : stop - self._first] = samples
        self._end = stop

    def view(self, start: int, stop: int) -> NDArray[np.int16]:
        """Returns samples `start` to `stop`, read-only and never changed by what comes later.

        Raises:
            IndexError: the range is not inside `start` to `end`.
        """
        if not self._start <= start <= stop <= self._end:
            raise IndexError(f"samples {start} to {stop} are not kept: the buffer holds {self._start} to {self._end}")
        window = self._store[start - self._first : stop - self._first]
        window.flags.writeable = False
        return window

    def drop_before(self, offset: int) -> None:
        """Forgets the samples before `offset`; an offset before `start` changes nothing.

        Raises:
            IndexError: the offset lies after `end`; `clear` is what jumps ahead.
        """
        if offset > self._end:
            raise IndexError(f"cannot drop up to {offset}: the buffer ends at {self._end}")
        self._start = max(self._start, offset)
        if self._store.size > _MIN_CAPACITY and 4 * len(self) < self._store.size:
            self._move(2 * len(self))

    def clear(self, offset: int) -> None:
        """Forgets everything; the next sample appended will have `offset`."""
        self._store = np.empty(_MIN_CAPACITY, np.int16)
        self._first = self._start = self._end = offset

    def _move(self, capacity: int) -> None:
        kept = self._store[self._start - self._first : self._end - self._first]
        self._store = np.empty(max(capacity, _MIN_CAPACITY), np.int16)
        self._store[: kept.size] = kept
        self._first = self._start
