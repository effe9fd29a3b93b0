from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from server.audio.resample import Resampler
from server.session.chain import HORIZON_S, Chain
from server.session.settings import VAD_WINDOW


def noise(count: int, seed: int = 0) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-9000, 9000, count, dtype=np.int16)


def judge(chain: Chain, state: object = None) -> int:
    """Answers all voice activity at once; returns how many windows that was."""
    count = 0
    while (request := chain.detect(everything=True)) is not None:
        chain.voice(state)
        chain.detected += len(request.samples)
        count += len(request.samples) // VAD_WINDOW
    return count


def is_detecting(chain: Chain) -> bool:
    return chain.is_detecting


def test_16_khz_passes_through() -> None:
    chain, audio = Chain(16000, 100, 1), noise(2000)
    chain.append(audio)
    assert (chain.received, chain.fed, chain.audio_end) == (2100, 100, 0)
    chain.feed(None)
    assert (chain.fed, chain.audio_end) == (2100, 2000)
    np.testing.assert_array_equal(chain.audio(5, 1995), audio[5:1995])
    chain.flush()
    assert chain.audio_end == 2000


def test_other_rates_are_resampled_and_flushed() -> None:
    chain, audio = Chain(8000, 0, 1), noise(3000)
    chain.append(audio)
    chain.feed(None)
    resampler = Resampler(8000)
    expected = resampler.process(audio)
    np.testing.assert_array_equal(chain.audio(0, chain.audio_end), expected)
    chain.flush()
    chain.flush()
    np.testing.assert_array_equal(chain.audio(0, chain.audio_end), np.concatenate([expected, resampler.flush()]))
    assert chain.detect(everything=True) is None


def test_feed_stops_at_the_limit() -> None:
    chain = Chain(16000, 0, 1)
    chain.append(noise(1000))
    chain.feed(300)
    assert chain.fed == 300
    chain.feed(200)
    assert chain.fed == 300
    chain.feed(None)
    assert chain.fed == 1000


def test_voice_activity_one_request_at_a_time_in_groups() -> None:
    chain = Chain(16000, 0, 3)
    chain.append(noise(2 * VAD_WINDOW))
    chain.feed(None)
    assert chain.detect(everything=False) is None
    chain.append(noise(VAD_WINDOW + 10))
    chain.feed(None)
    request = chain.detect(everything=False)
    assert request is not None
    assert (request.epoch, request.state, len(request.samples)) == (0, None, 3 * VAD_WINDOW)
    assert is_detecting(chain)
    chain.append(noise(VAD_WINDOW))
    chain.feed(None)
    assert chain.detect(everything=True) is None
    chain.voice("state")
    chain.detected += 3 * VAD_WINDOW
    assert not is_detecting(chain)
    assert chain.detect(everything=False) is None
    rest = chain.detect(everything=True)
    assert rest is not None
    assert (rest.state, len(rest.samples)) == ("state", VAD_WINDOW)


def test_restart_begins_with_nothing() -> None:
    chain, audio = Chain(16000, 0, 1), noise(4000)
    chain.append(audio)
    chain.feed(None)
    judge(chain, "old")
    chain.flush()
    chain.restart(1000)
    assert (chain.epoch, chain.origin, chain.fed, chain.detected, chain.received) == (1, 1000, 1000, 0, 4000)
    assert not chain.flushed
    chain.feed(None)
    request = chain.detect(everything=True)
    assert request is not None
    assert (request.epoch, request.state) == (1, None)
    np.testing.assert_array_equal(request.samples, audio[1000 : 1000 + len(request.samples)])


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 48000])
def test_a_restarted_chain_is_a_new_chain(rate: int) -> None:
    audio = noise(rate)
    first, fresh = Chain(rate, 0, 1), Chain(rate, 777, 1)
    first.append(audio)
    first.feed(None)
    first.restart(777)
    first.feed(None)
    fresh.append(audio[777:])
    fresh.feed(None)
    assert first.audio_end == fresh.audio_end > 0
    np.testing.assert_array_equal(first.audio(0, first.audio_end), fresh.audio(0, fresh.audio_end))


def test_audio_behind_a_gap_waits_for_a_restart_there() -> None:
    chain, before, after = Chain(16000, 0, 1), noise(1000), noise(2000, 1)
    chain.append(before)
    chain.skip_to(5000)
    assert chain.received == 5000
    chain.append(after[:600])
    chain.feed(None)
    assert (chain.fed, chain.received) == (1000, 5600)
    chain.skip_to(9000)
    chain.append(after[600:])
    chain.restart(5000)
    chain.feed(None)
    assert (chain.fed, chain.received) == (5600, 10400)
    np.testing.assert_array_equal(chain.audio(0, 600), after[:600])
    chain.restart(9000)
    chain.feed(None)
    np.testing.assert_array_equal(chain.audio(0, 1400), after[600:])


def test_positions_and_offsets() -> None:
    chain = Chain(8000, 4000, 1)
    chain.append(noise(8000))
    chain.feed(None)
    assert chain.input_offset(0) == 4000
    assert chain.input_offset(1000) == 4500
    assert chain.input_offset(10**6) == 12000
    assert chain.seconds(1600) == pytest.approx(0.6)


def test_one_huge_frame_can_still_be_restarted_where_voice_activity_is() -> None:
    # Half a minute at once: what has not been judged may still become a restart point.
    chain, audio = Chain(8000, 0, 1), noise(8000 * 30)
    chain.append(audio)
    chain.feed(None)
    chain.restart(8000)
    chain.feed(None)
    fresh = Chain(8000, 8000, 1)
    fresh.append(audio[8000:])
    fresh.feed(None)
    np.testing.assert_array_equal(chain.audio(0, 5000), fresh.audio(0, 5000))


def test_input_that_no_restart_can_need_is_dropped() -> None:
    chain = Chain(8000, 0, 1)
    for second in range(40):
        chain.append(noise(8000, second))
        chain.feed(None)
        judge(chain)
    chain.restart(chain.fed - int((HORIZON_S - 1) * 8000))
    chain.restart(0)
    with pytest.raises(IndexError):
        chain.feed(None)
