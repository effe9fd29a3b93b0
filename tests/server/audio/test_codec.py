from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from server.audio.codec import ENCODINGS, encode_alaw, encode_mulaw, make_decoder

EVERY_INT16 = np.arange(-32768, 32768).astype(np.int16)
EVERY_BYTE = bytes(range(256))


def decode(encoding: str, data: bytes) -> NDArray[np.int16]:
    return make_decoder(encoding).decode(data)


@given(st.sampled_from(ENCODINGS), st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=20))
def test_cuts_change_nothing(encoding: str, data: bytes, cuts: list[int]) -> None:
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    decoder = make_decoder(encoding)
    parts = [decoder.decode(data[start:stop]) for start, stop in pairwise(bounds)]
    whole = len(data) // decoder.sample_width * decoder.sample_width
    np.testing.assert_array_equal(np.concatenate(parts), decode(encoding, data[:whole]))
    assert decoder.pending == len(data) - whole
    assert all(part.dtype == np.int16 for part in parts)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_reset_forgets_the_half_sample(encoding: str) -> None:
    decoder = make_decoder(encoding)
    decoder.decode(bytes(7 * decoder.sample_width) + b"\x01" * (decoder.sample_width - 1))
    assert decoder.pending == decoder.sample_width - 1
    decoder.reset()
    assert decoder.pending == 0
    assert decoder.decode(bytes(decoder.sample_width)).size == 1


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_a_reused_buffer_does_not_change_what_was_decoded(kind: type[bytearray] | type[memoryview]) -> None:
    buffer = bytearray(EVERY_INT16[:100].tobytes())
    samples = make_decoder("pcm_s16le").decode(kind(buffer))
    buffer[:] = bytes(len(buffer))
    np.testing.assert_array_equal(samples, EVERY_INT16[:100])


def test_an_unknown_encoding_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'opus'.*pcm_s16le, pcm_f32le, mulaw, alaw"):
        make_decoder("opus")


def test_s16_is_little_endian() -> None:
    assert decode("pcm_s16le", b"\x01\x00\x00\x80\xff\x7f").tolist() == [1, -32768, 32767]


def test_every_int16_survives_the_way_through_float() -> None:
    floats = (EVERY_INT16 / np.float32(32768)).astype("<f4")
    np.testing.assert_array_equal(decode("pcm_f32le", floats.tobytes()), EVERY_INT16)


def test_floats_saturate_and_what_is_not_finite_is_silence() -> None:
    values = [1.0, -1.0, 7.5, -7.5, 3e38, -3e38, np.nan, np.inf, -np.inf, -0.0, 1e-45]
    expected = [32767, -32768, 32767, -32768, 32767, -32768, 0, 0, 0, 0, 0]
    assert decode("pcm_f32le", np.array(values, "<f4").tobytes()).tolist() == expected


def test_floats_round_half_to_even() -> None:
    halves = np.array([0.5, 1.5, 2.5, -0.5, -1.5], "<f4") / np.float32(32768)
    assert decode("pcm_f32le", halves.tobytes()).tolist() == [0, 2, 2, 0, -2]


@given(st.binary(min_size=4, max_size=400))
def test_no_bytes_make_the_float_decoder_warn(data: bytes) -> None:
    decode("pcm_f32le", data)


def test_mulaw_ends_and_middle() -> None:
    # G.711 table 2: the outermost and the innermost values, in 16 bits.
    assert decode("mulaw", b"\x00\x80\x7f\xff\x7e\xfe").tolist() == [-32124, 32124, 0, 0, -8, 8]


def test_alaw_ends_and_middle() -> None:
    assert decode("alaw", b"\x2a\xaa\x55\xd5").tolist() == [-32256, 32256, -8, 8]


@pytest.mark.parametrize(
    ("encoding", "period"),
    [
        ("mulaw", bytes([0x1E, 0x0B, 0x0B, 0x1E, 0x9E, 0x8B, 0x8B, 0x9E])),
        ("alaw", bytes([0x34, 0x21, 0x21, 0x34, 0xB4, 0xA1, 0xA1, 0xB4])),
    ],
)
def test_the_digital_milliwatt_is_a_sine(encoding: str, period: bytes) -> None:
    """G.711 tables 5 and 6: these bytes are a 1 kHz sine at 0 dBm0, 3.14 or 3.17 dB under full scale."""
    samples = decode(encoding, period * 8).astype(float)
    spectrum = np.abs(np.fft.rfft(samples)) / (samples.size / 2)
    level = 20 * np.log10(spectrum[8] / 32768)
    assert level == pytest.approx(-3.15, abs=0.15)
    assert np.delete(spectrum, 8).max() < 0.02 * spectrum[8]


def test_g711_agrees_with_the_standard_library() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        audioop = pytest.importorskip("audioop", reason="left the standard library with Python 3.13")
    linear = EVERY_INT16.tobytes()
    assert encode_mulaw(EVERY_INT16) == audioop.lin2ulaw(linear, 2)
    assert encode_alaw(EVERY_INT16) == audioop.lin2alaw(linear, 2)
    assert decode("mulaw", EVERY_BYTE).tobytes() == audioop.ulaw2lin(EVERY_BYTE, 2)
    assert decode("alaw", EVERY_BYTE).tobytes() == audioop.alaw2lin(EVERY_BYTE, 2)


@pytest.mark.parametrize(("encoding", "encode"), [("mulaw", encode_mulaw), ("alaw", encode_alaw)])
def test_g711_goes_round(encoding: str, encode: Callable[[NDArray[np.int16]], bytes]) -> None:
    table = decode(encoding, EVERY_BYTE)
    np.testing.assert_array_equal(decode(encoding, encode(table)), table)
    # Any other sample moves by at most half a step, which grows with its size, and what the shift to 14 bits cuts off.
    size = np.abs(EVERY_INT16.astype(int))
    error = np.abs(decode(encoding, encode(EVERY_INT16)).astype(int) - EVERY_INT16)
    assert (error <= (size + 132) / 32 + 8)[size <= table.max()].all()
