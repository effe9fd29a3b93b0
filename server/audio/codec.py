"""Wire encodings of audio to the int16 samples that everything behind the codec works on, and back.

The canonical domain is int16. Floats are scaled by 32768, the inverse of the usual ``int16 / 32768``, so samples
that were int16 once come back unchanged; +1.0 saturates at 32767. G.711 tables are built from the segment
definition in ITU-T Recommendation G.711 (11/88), scaled to 16 bits as usual: 14-bit mu-law by 4, 13-bit A-law by 8.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

_Samples = NDArray[np.int16]
_Expand = Callable[[bytes], _Samples]

_EMPTY: Final[_Samples] = np.empty(0, np.int16)
_EMPTY.flags.writeable = False

_MULAW_BIAS: Final = 33
_MULAW_MAX: Final = 8192 - _MULAW_BIAS - 1


class Decoder:
    """Turns the bytes of one audio stream into int16 samples, however the stream was cut into frames.

    The only state is the bytes of a sample whose rest is still to come. Make one with `make_decoder`.
    """

    __slots__ = ("_expand", "_held", "sample_width")

    def __init__(self, sample_width: int, expand: _Expand) -> None:
        self.sample_width: Final = sample_width
        self._expand = expand
        self._held = b""

    @property
    def pending(self) -> int:
        """Bytes held of a sample that is not complete; less than `sample_width`."""
        return len(self._held)

    def decode(self, data: bytes | bytearray | memoryview) -> _Samples:
        """Returns the samples that `data` completes, shape (n,).

        The array may be read-only and never changes when a mutable `data` is written to later.
        """
        joined = self._held + data if self._held else bytes(data)
        cut = len(joined) % self.sample_width
        if cut:
            self._held = joined[-cut:]
            joined = joined[:-cut]
        else:
            self._held = b""
        return self._expand(joined) if joined else _EMPTY

    def reset(self) -> None:
        """Forgets the bytes held, as at the start of a stream."""
        self._held = b""


def make_decoder(encoding: str) -> Decoder:
    """Returns a fresh decoder for `encoding`, one of `ENCODINGS`.

    Raises:
        ValueError: the encoding is not known; the message names those that are.
    """
    try:
        width, expand = _DECODERS[encoding]
    except KeyError:
        raise ValueError(f"unknown encoding {encoding!r}: use one of {', '.join(_DECODERS)}") from None
    return Decoder(width, expand)


def _expand_s16(data: bytes) -> _Samples:
    return np.frombuffer(data, "<i2").astype(np.int16, copy=False)


def _expand_f32(data: bytes) -> _Samples:
    values = np.frombuffer(data, "<f4").astype(np.float32)
    finite = np.isfinite(values)
    if not finite.all():
        # The protocol says so: no loud sample but a fault of the sender.
        values[~finite] = 0
    np.clip(values, -1, 1, out=values)
    values *= 32768
    np.rint(values, out=values)
    return np.minimum(values, 32767, out=values).astype(np.int16)


def _expand_mulaw(data: bytes) -> _Samples:
    return mulaw_table()[np.frombuffer(data, np.uint8)]


def _expand_alaw(data: bytes) -> _Samples:
    return alaw_table()[np.frombuffer(data, np.uint8)]


_DECODERS: Final[dict[str, tuple[int, _Expand]]] = {
    "pcm_s16le": (2, _expand_s16),
    "pcm_f32le": (4, _expand_f32),
    "mulaw": (1, _expand_mulaw),
    "alaw": (1, _expand_alaw),
}

ENCODINGS: Final[tuple[str, ...]] = tuple(_DECODERS)
"""The names `make_decoder` knows, as they stand in the protocol."""


@cache
def mulaw_table() -> _Samples:
    """The int16 value of each mu-law byte, shape (256,)."""
    # All bits are inverted on the wire: sign, 3 bits of segment, 4 bits of step.
    code = ~np.arange(256) & 0xFF
    segment, step = (code >> 4) & 7, code & 15
    magnitude = ((2 * step + _MULAW_BIAS) << segment) - _MULAW_BIAS
    return _frozen(np.where(code & 0x80, -magnitude, magnitude) * 4)


@cache
def alaw_table() -> _Samples:
    """The int16 value of each A-law byte, shape (256,)."""
    # Even bits are inverted on the wire; here a set sign bit means positive.
    code = np.arange(256) ^ 0x55
    segment, step = (code >> 4) & 7, code & 15
    # Segments 0 and 1 share one step size, so only from segment 1 on is there a leading bit and a shift.
    magnitude = (2 * step + 1 + np.where(segment > 0, 32, 0)) << np.maximum(segment - 1, 0)
    return _frozen(np.where(code & 0x80, magnitude, -magnitude) * 8)


def encode_mulaw(samples: NDArray[np.int16]) -> bytes:
    """Compresses int16 samples, shape (n,), to n bytes of mu-law; louder than 32124 saturates."""
    return _mulaw_codes()[samples.view(np.uint16)].tobytes()


def encode_alaw(samples: NDArray[np.int16]) -> bytes:
    """Compresses int16 samples, shape (n,), to n bytes of A-law; louder than 32256 saturates."""
    return _alaw_codes()[samples.view(np.uint16)].tobytes()


@cache
def _mulaw_codes() -> NDArray[np.uint8]:
    linear = _every_int16() >> 2
    magnitude = np.minimum(np.abs(linear), _MULAW_MAX) + _MULAW_BIAS
    # The biased magnitude starts with a 1 in bit 5 + segment.
    segment = np.searchsorted(2 ** np.arange(6, 13), magnitude, side="right")
    step = (magnitude >> (segment + 1)) & 15
    code = np.where(linear < 0, 0x80, 0) | (segment << 4) | step
    codes: NDArray[np.uint8] = (~code & 0xFF).astype(np.uint8)
    return codes


@cache
def _alaw_codes() -> NDArray[np.uint8]:
    linear = _every_int16() >> 3
    # -1 belongs to the first negative step, so the negative half is mirrored about -1/2.
    magnitude = np.where(linear < 0, -linear - 1, linear)
    segment = np.searchsorted(2 ** np.arange(5, 12), magnitude, side="right")
    step = (magnitude >> np.maximum(segment, 1)) & 15
    code = np.where(linear < 0, 0, 0x80) | (segment << 4) | step
    codes: NDArray[np.uint8] = (code ^ 0x55).astype(np.uint8)
    return codes


def _every_int16() -> NDArray[np.int64]:
    """Every int16 value at the index of its unsigned bit pattern."""
    return np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.int64)


def _frozen(values: NDArray[np.int64]) -> _Samples:
    table = values.astype(np.int16)
    table.flags.writeable = False
    return table
