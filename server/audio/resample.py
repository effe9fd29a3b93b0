"""Streaming conversion of any input rate to 16 kHz, bit for bit the same however the input is cut.

A polyphase filter bank (Crochiere and Rabiner, *Multirate Digital Signal Processing*, 1983) over a Kaiser-windowed
sinc: flat to 0.9 of the lower Nyquist frequency, at least 80 dB down from that frequency on.

Why the cut cannot matter: filter coefficients are integers over 2**22, samples are int16, and the sums are taken in
float64. Every product and every partial sum is then an integer below 2**53, so the arithmetic is exact, and exact sums
do not depend on the order in which a BLAS takes them, the shape of the block, or the CPU. Only then is it rounded.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

OUTPUT_RATE: Final = 16000
"""What everything behind the resampler hears, in Hz."""

MIN_RATE: Final = 8000
MAX_RATE: Final = 48000

_PASS_EDGE: Final = 0.9
_ATTENUATION_DB: Final = 82.0
_GRID: Final = 2.0**22
_CHUNK: Final = 32
"""Outputs made at a time: 2 ms. It divides 512, so no voice activity window ever waits for the end of a chunk."""
_MAX_PHASES: Final = 640
"""Rates with more filter phases than this (none in common use) interpolate between `_FINE_PHASES` phases."""
_FINE_PHASES: Final = 256


class _Filter(Protocol):
    """Computes outputs out of the samples they reach."""

    chunks_at_once: int
    """How many chunks it should be asked for at once: bounds the scratch memory of a huge frame."""

    def apply(self, samples: NDArray[np.float64], first: int, chunk: int, chunks: int) -> NDArray[np.float64]:
        """Returns the outputs of `chunks` chunks from `chunk` on, unrounded.

        Args:
            samples: input samples; `samples[0]` is the one at offset `first` of the stream.
            first: that offset; negative before the start of the stream.
            chunk: index of the first chunk; chunk c holds outputs ``c * _CHUNK`` on.
            chunks: how many to compute.
        """
        ...


class Resampler:
    """Resamples one int16 stream to 16 kHz.

    Output n is the signal at time n / 16000 s: the delay of the filter is compensated, so offsets map without a shift
    (`input_offset_of`). It comes out at the latest with the input sample `lookahead` after that.

    Args:
        rate: input rate in Hz, an integer from 8000 to 48000.

    Raises:
        ValueError: the rate is outside that range.
    """

    def __init__(self, rate: int) -> None:
        if not MIN_RATE <= rate <= MAX_RATE:
            raise ValueError(f"sample rate {rate} Hz is not supported: use one from {MIN_RATE} to {MAX_RATE}")
        self.rate: Final = rate
        self._identity = rate == OUTPUT_RATE
        self._geometry = _Geometry(rate)
        self.reset()

    @property
    def lookahead(self) -> int:
        """How many input samples after its own an output may wait for; under 10 ms."""
        return 0 if self._identity else self._geometry.span - self._geometry.half - 1

    def input_offset_of(self, n: int) -> int:
        """The input sample that plays when output `n` does, counted from the start of the stream."""
        return n * self.rate // OUTPUT_RATE

    def process(self, samples: NDArray[np.int16]) -> NDArray[np.int16]:
        """Takes the next samples, shape (n,), and returns the outputs they complete, shape (m,)."""
        if self._identity:
            return samples
        self._received += samples.size
        if samples.size:
            self._waiting.append(samples)
        return self._emit(self._geometry.chunks_reached_by(self._received) - self._chunk)

    def flush(self) -> NDArray[np.int16]:
        """Ends the stream: returns the outputs still owed, as if zeros followed, and starts afresh.

        Over its whole life a stream of n samples gives ceil(n * 16000 / rate) outputs.
        """
        if self._identity:
            return np.empty(0, np.int16)
        made = self._chunk * _CHUNK
        owed = -(-self._received * OUTPUT_RATE // self.rate) - made
        chunks = -(-owed // _CHUNK)
        self._waiting.append(np.zeros(self._geometry.stop_of(self._chunk + chunks) - self._received, np.int16))
        tail = self._emit(chunks)[:owed]
        self.reset()
        return tail

    def reset(self) -> None:
        """Forgets everything, as at the start of a stream."""
        self._chunk = 0
        self._received = 0
        self._waiting: list[NDArray[np.int16]] = []
        # The stream begins in the middle of the first output's filter: silence before it.
        self._first = -self._geometry.half
        self._history = np.zeros(self._geometry.half, np.float64)

    def _emit(self, chunks: int) -> NDArray[np.int16]:
        if chunks <= 0:
            return np.empty(0, np.int16)
        bank = filter_bank(self.rate)
        buffered = np.concatenate([self._history, *self._waiting])
        out = np.empty(chunks * _CHUNK, np.int16)
        for done in range(0, chunks, bank.chunks_at_once):
            count = min(bank.chunks_at_once, chunks - done)
            exact = bank.apply(buffered, self._first, self._chunk + done, count)
            np.rint(exact, out=exact)
            np.minimum(exact, 32767, out=exact)
            np.maximum(exact, -32768, out=exact)
            out[done * _CHUNK : (done + count) * _CHUNK] = exact
        self._chunk += chunks
        keep_from = self._geometry.start_of(self._chunk)
        self._history = buffered[keep_from - self._first :].copy()
        self._first = keep_from
        self._waiting = []
        return out


class _Geometry:
    """Which input samples which chunk of outputs needs, in integers."""

    def __init__(self, rate: int) -> None:
        common = math.gcd(OUTPUT_RATE, rate)
        self.up: Final = OUTPUT_RATE // common
        self.down: Final = rate // common
        self.taps: Final = _tap_count(rate)
        self.half: Final = self.taps // 2 - 1
        """Taps before the one at or just before an output's time."""
        self.span: Final = ((_CHUNK - 1) * self.down + self.up - 1) // self.up + self.taps
        """Inputs that one chunk reaches over; the same for every chunk."""

    def start_of(self, chunk: int) -> int:
        """Offset of the first input that `chunk` needs."""
        return chunk * _CHUNK * self.down // self.up - self.half

    def stop_of(self, chunks: int) -> int:
        """Inputs needed for the first `chunks` chunks."""
        return self.start_of(chunks - 1) + self.span if chunks else 0

    def chunks_reached_by(self, received: int) -> int:
        """How many chunks the first `received` inputs are enough for."""
        room = received - self.span + self.half
        if room < 0:
            return 0
        # The last chunk c with floor(c * _CHUNK * down / up) <= room.
        return ((room + 1) * self.up - 1) // (_CHUNK * self.down) + 1


class _ExactBank:
    """One matrix for each place in the input that a chunk can start at: a chunk is one vector times its matrix."""

    # Small enough that no BLAS spreads the product over threads, which would spin beside the event loop.
    chunks_at_once = 16

    def __init__(self, rate: int) -> None:
        self._geometry = geometry = _Geometry(rate)
        common = math.gcd(geometry.up, _CHUNK)
        self._matrices: list[NDArray[np.float64]] = []
        for chunk in range(geometry.up // common):
            matrix = np.zeros((geometry.span, _CHUNK))
            phase = chunk * _CHUNK * geometry.down % geometry.up
            for n in range(_CHUNK):
                whole, part = divmod(phase + n * geometry.down, geometry.up)
                matrix[whole : whole + geometry.taps, n] = _taps(rate, part / geometry.up)
            self._matrices.append(matrix)

    def apply(self, samples: NDArray[np.float64], first: int, chunk: int, chunks: int) -> NDArray[np.float64]:
        geometry, cycle = self._geometry, len(self._matrices)
        windows = _windows(samples, geometry.span)
        starts = np.arange(chunk, chunk + chunks) * _CHUNK * geometry.down // geometry.up - geometry.half - first
        out = np.empty((chunks, _CHUNK))
        for place in range(min(cycle, chunks)):
            out[place::cycle] = windows[starts[place::cycle]] @ self._matrices[(chunk + place) % cycle]
        return out.ravel()


class _InterpolatingBank:
    """A fixed number of phases and a straight line between neighbours, for rates that would need thousands.

    With 256 phases the line is off by at most 2e-5 of full scale, 94 dB down.
    """

    def __init__(self, rate: int) -> None:
        self._geometry = _Geometry(rate)
        self._phases = np.stack([_taps(rate, phase / _FINE_PHASES) for phase in range(_FINE_PHASES + 1)])
        # Gathers of up to 128 KiB: malloc takes larger ones fresh from the system, at several times the cost.
        self.chunks_at_once = max(1, 131072 // (self._phases.itemsize * self._geometry.taps * _CHUNK))

    def apply(self, samples: NDArray[np.float64], first: int, chunk: int, chunks: int) -> NDArray[np.float64]:
        geometry = self._geometry
        n = np.arange(chunk * _CHUNK, (chunk + chunks) * _CHUNK)
        whole, part = np.divmod(n * geometry.down, geometry.up)
        phase, rest = np.divmod(part * _FINE_PHASES, geometry.up)
        windows = _windows(samples, geometry.taps)[whole - geometry.half - first]
        lower = np.einsum("nk,nk->n", windows, self._phases[phase])
        upper = np.einsum("nk,nk->n", windows, self._phases[phase + 1])
        # The two sums are exact; what follows is the same few roundings for each output by itself.
        outputs: NDArray[np.float64] = lower + (upper - lower) * (rest / geometry.up)
        return outputs


def _windows(samples: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Every stretch of `width` samples, shape (n, width), without a copy.

    What `sliding_window_view` gives; that takes longer than a frame's whole filter.
    """
    step = samples.itemsize
    return np.ndarray((samples.size - width + 1, width), np.float64, samples, strides=(step, step))


@lru_cache(maxsize=16)
def filter_bank(rate: int) -> _Filter:
    """The filters for `rate`, computed once; the 16 rates used last are kept, at most about 3 MB each."""
    if _Geometry(rate).up <= _MAX_PHASES:
        return _ExactBank(rate)
    return _InterpolatingBank(rate)


def _tap_count(rate: int) -> int:
    """Taps per output: Kaiser's estimate for the transition band, rounded up to an even number."""
    transition = np.pi * (1 - _PASS_EDGE) * min(rate, OUTPUT_RATE) / rate
    return 2 * int(np.ceil(((_ATTENUATION_DB - 7.95) / (2.285 * transition) + 1) / 2))


def _taps(rate: int, phase: float) -> NDArray[np.float64]:
    """Filter taps for an output `phase` of an input sample after its whole offset, on the grid, summing to 1."""
    count = _tap_count(rate)
    edge = (1 + _PASS_EDGE) / 2 * min(rate, OUTPUT_RATE) / rate
    time = np.arange(count) - (count // 2 - 1) - phase
    beta = 0.1102 * (_ATTENUATION_DB - 8.7)
    window = np.i0(beta * np.sqrt(np.maximum(0, 1 - (2 * time / count) ** 2))) / np.i0(beta)
    taps: NDArray[np.float64] = np.rint(edge * np.sinc(edge * time) * window * _GRID)
    # Every phase passes a constant unchanged, so silence with an offset stays free of a whine.
    taps[count // 2 - 1 + round(phase)] += _GRID - taps.sum()
    taps /= _GRID
    return taps
