from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import signal

from server.audio import resample
from server.audio.resample import OUTPUT_RATE, Resampler, filter_bank

COMMON = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000)
ODD = (8001, 12345, 47999)
RATES = COMMON + ODD
EXACT = tuple(rate for rate in COMMON if rate != OUTPUT_RATE)


def resampled(rate: int, samples: NDArray[np.int16]) -> NDArray[np.int16]:
    resampler = Resampler(rate)
    return np.concatenate([resampler.process(samples), resampler.flush()])


def noise(count: int, seed: int = 0) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-32768, 32768, count).astype(np.int16)


def tone(rate: int, hertz: float, amplitude: float = 20000) -> NDArray[np.int16]:
    return np.rint(amplitude * np.sin(2 * np.pi * hertz * np.arange(rate) / rate)).astype(np.int16)


@settings(deadline=None)
@given(st.sampled_from(RATES), st.integers(0, 4000), st.lists(st.integers(0, 4000), max_size=30), st.integers(0, 99))
def test_cuts_change_no_bit(rate: int, count: int, cuts: list[int], seed: int) -> None:
    samples = noise(count, seed)
    bounds = [0, *sorted(min(cut, count) for cut in cuts), count]
    resampler = Resampler(rate)
    parts = [resampler.process(samples[start:stop]) for start, stop in pairwise(bounds)]
    parts.append(resampler.flush())
    np.testing.assert_array_equal(np.concatenate(parts), resampled(rate, samples))


@pytest.mark.parametrize("rate", RATES)
def test_single_samples_and_one_huge_frame_agree(rate: int) -> None:
    samples = noise(3000)
    resampler = Resampler(rate)
    parts = [resampler.process(samples[index : index + 1]) for index in range(samples.size)]
    parts.append(resampler.flush())
    np.testing.assert_array_equal(np.concatenate(parts), resampled(rate, samples))
    long = noise(12 * rate)
    first = Resampler(rate)
    halves = [first.process(half) for half in np.array_split(long, 2)]
    np.testing.assert_array_equal(np.concatenate([*halves, first.flush()]), resampled(rate, long))


@settings(deadline=None, max_examples=40)
@given(st.integers(8000, 48000), st.integers(0, 3000))
def test_a_stream_gives_as_many_outputs_as_fit_its_time(rate: int, count: int) -> None:
    assert resampled(rate, noise(count)).size == math.ceil(count * OUTPUT_RATE / rate)


@pytest.mark.parametrize("rate", EXACT)
def test_the_sums_are_exact(rate: int) -> None:
    """The proof behind the cuts: what the filters sum in floats, whole numbers of any size sum to as well."""
    bank = filter_bank(rate)
    assert isinstance(bank, resample._ExactBank)
    geometry = resample._Geometry(rate)
    # The loudest input that there can be for the first output of each matrix.
    for chunk, matrix in enumerate(bank._matrices):
        whole = np.rint(matrix * 2.0**22)
        np.testing.assert_array_equal(whole / 2.0**22, matrix)
        samples = np.where(matrix[:, 0] < 0, -32768, 32767).astype(float)
        got = bank.apply(samples, geometry.start_of(chunk), chunk, 1) * 2.0**22
        rows = [[int(value) for value in column] for column in whole.T]
        expected = [sum(tap * int(sample) for tap, sample in zip(row, samples, strict=True)) for row in rows]
        assert [int(value) for value in got] == expected
        assert max(abs(value) for value in expected) < 2**53


@pytest.mark.parametrize("rate", RATES)
def test_the_pass_band_is_flat_and_in_time(rate: int) -> None:
    """Compared with the sine itself on the output's clock: gain, delay and offsets at once."""
    inside = slice(800, -800)
    time = np.arange(OUTPUT_RATE) / OUTPUT_RATE
    for hertz in np.linspace(60, 0.9 * min(rate, OUTPUT_RATE) / 2, 9):
        error = resampled(rate, tone(rate, hertz)) - 20000 * np.sin(2 * np.pi * hertz * time)
        assert np.abs(error[inside]).max() < 20000 * 10 ** (-70 / 20)


@pytest.mark.parametrize("rate", [rate for rate in RATES if rate > OUTPUT_RATE])
def test_what_16_khz_cannot_hold_is_70_db_down(rate: int) -> None:
    for hertz in np.linspace(8000, rate / 2 - 10, 12):
        left = resampled(rate, tone(rate, hertz))[800:-800].astype(float)
        assert np.sqrt(np.mean(left**2)) < 20000 / math.sqrt(2) * 10 ** (-70 / 20)


@pytest.mark.parametrize("rate", [rate for rate in RATES if rate < OUTPUT_RATE])
def test_images_are_70_db_down(rate: int) -> None:
    for hertz in np.linspace(60, 0.9 * rate / 2, 7):
        output = resampled(rate, tone(rate, hertz))[800:-800]
        spectrum = np.abs(np.fft.rfft(output * np.kaiser(output.size, 14)))
        images = np.fft.rfftfreq(output.size, 1 / OUTPUT_RATE) > rate / 2
        assert spectrum[images].max() < spectrum.max() * 10 ** (-70 / 20)


@pytest.mark.parametrize("rate", EXACT)
def test_speech_agrees_with_scipy(rate: int, two_cities: NDArray[np.int16]) -> None:
    """Speech inside the pass band, through `resample_poly` with a filter of its own, sharper than ours."""
    common = math.gcd(rate, 48000)
    at_rate = signal.resample_poly(two_cities[:96000].astype(float), rate // common, 48000 // common)
    narrow = signal.firwin(1001, 0.85 * min(1, OUTPUT_RATE / rate))
    samples = np.rint(np.convolve(at_rate, narrow, "same")).clip(-32768, 32767).astype(np.int16)
    common = math.gcd(rate, OUTPUT_RATE)
    up, down = OUTPUT_RATE // common, rate // common
    sharp: NDArray[np.float64] = signal.firwin(1 + 400 * max(up, down), 0.95 * min(1 / up, 1 / down))
    reference = signal.resample_poly(samples.astype(np.float64), up, down, window=sharp.tolist())
    ours = resampled(rate, samples)
    difference = (ours - reference[: ours.size])[1000:-1000]
    # Rounding alone makes 0.29.
    assert np.sqrt(np.mean(difference**2)) < 0.4
    assert np.sqrt(np.mean(reference**2)) > 300


@pytest.mark.parametrize("rate", EXACT)
def test_a_constant_stays_the_constant(rate: int) -> None:
    output = resampled(rate, np.full(rate // 4, -1234, np.int16))
    assert set(output[400:-400].tolist()) == {-1234}


@pytest.mark.parametrize("rate", RATES)
def test_loud_input_saturates(rate: int) -> None:
    square = np.where(np.arange(rate // 4) // 40 % 2, 32767, -32768).astype(np.int16)
    output = resampled(rate, square)[400:-400]
    assert (output.min(), output.max()) == (-32768, 32767)
    # The overshoot at the edges would turn its sign if it wrapped: neighbours never jump from end to end and back.
    sign_changes = np.count_nonzero(np.diff(output > 0))
    assert sign_changes <= math.ceil(output.size / (40 * OUTPUT_RATE / rate)) + 1


@settings(deadline=None)
@given(st.sampled_from(RATES), st.lists(st.integers(1, 700), min_size=1, max_size=20))
def test_outputs_come_by_the_promised_lookahead(rate: int, frames: list[int]) -> None:
    resampler = Resampler(rate)
    received = made = 0
    for frame in frames:
        made += resampler.process(noise(frame)).size
        received += frame
        assert received <= resampler.input_offset_of(made) + resampler.lookahead
        assert made == 0 or resampler.input_offset_of(made - 1) < received
    assert resampler.lookahead <= rate * 0.01


def test_16_khz_passes_through_without_a_copy() -> None:
    resampler = Resampler(OUTPUT_RATE)
    samples = noise(100)
    assert resampler.process(samples) is samples
    assert resampler.flush().size == 0


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("end", [Resampler.flush, Resampler.reset])
def test_a_chain_that_starts_again_knows_nothing_of_the_past(rate: int, end: object) -> None:
    assert callable(end)
    resampler = Resampler(rate)
    resampler.process(noise(777, seed=1))
    end(resampler)
    samples = noise(1000, seed=2)
    again = np.concatenate([resampler.process(samples), resampler.flush()])
    np.testing.assert_array_equal(again, resampled(rate, samples))


@pytest.mark.parametrize("rate", [7999, 48001, 0, -16000])
def test_rates_out_of_range_are_refused(rate: int) -> None:
    with pytest.raises(ValueError, match="8000 to 48000"):
        Resampler(rate)


def test_filters_take_bounded_memory() -> None:
    for rate in (11025, 44100, 47999, 8001, 12345, 25625, 38475):
        bank = filter_bank(rate)
        assert isinstance(bank, resample._ExactBank | resample._InterpolatingBank)
        arrays = bank._matrices if isinstance(bank, resample._ExactBank) else [bank._phases]
        assert sum(array.nbytes for array in arrays) < 3_000_000
    for rate in range(8001, 8021):
        filter_bank(rate)
    assert filter_bank.cache_info().currsize <= 16
