from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from server.session.segmenter import (
    RESTLESS,
    Endpoint,
    Idle,
    Limit,
    Onset,
    Quiet,
    Resumed,
    Segmenter,
    SegmenterEvent,
)
from server.session.settings import Policy

POLICY = Policy(onset_windows=3, pre_roll_windows=4, quiet_windows=3, max_segment_s=1.6, idle_windows=20)
SPEECH, BETWEEN, SILENCE, MURMUR = 0.9, 0.4, 0.1, 0.3
W = 512


def run(segmenter: Segmenter, probabilities: Sequence[float]) -> list[tuple[int, SegmenterEvent]]:
    events = ((number, segmenter.step(p)) for number, p in enumerate(probabilities, 1))
    return [(number, event) for number, event in events if event is not None]


def opened(endpoint_ms: int = 320, speech: int = 3) -> Segmenter:
    segmenter = Segmenter(POLICY, endpoint_ms)
    run(segmenter, [SILENCE] * 6 + [SPEECH] * speech)
    assert segmenter.in_speech
    return segmenter


def test_onset_needs_speech_in_a_row_and_takes_the_pre_roll_along() -> None:
    segmenter = Segmenter(POLICY, 320)
    speech = [SILENCE] * 6 + [SPEECH, SPEECH, BETWEEN, SPEECH, SPEECH, SPEECH]
    assert run(segmenter, speech) == [(12, Onset(start=5 * W, speech=9 * W, heard=10 * W))]
    assert segmenter.in_speech
    assert not segmenter.is_quiet
    assert segmenter.quiet_end is None
    assert segmenter.speech_end == 12 * W


LONG = replace(POLICY, long_segment_s=0.64, max_segment_s=9.0)


def opened_long(endpoint_ms: int) -> Segmenter:
    segmenter = Segmenter(LONG, endpoint_ms)
    run(segmenter, [SPEECH] * 20)
    return segmenter


def test_a_long_segment_ends_at_a_shorter_silence() -> None:
    # Two fifths of ten windows.
    assert run(opened_long(320), [SILENCE] * 4) == [
        (3, Quiet(end=23 * W, speech_end=20 * W)),
        (4, Endpoint(end=23 * W, speech_end=20 * W)),
    ]
    # They are no longer than a short silence: it ends at once.
    assert run(opened_long(224), [SILENCE] * 3) == [(3, Endpoint(end=23 * W, speech_end=20 * W))]


def test_a_segment_gets_long_within_a_silence() -> None:
    segmenter = Segmenter(LONG, 640)
    run(segmenter, [SPEECH] * 8)
    assert run(segmenter, [SILENCE] * 12)[-1] == (12, Endpoint(end=11 * W, speech_end=8 * W))


def test_pre_roll_does_not_reach_behind_the_start() -> None:
    assert run(Segmenter(POLICY, 320), [SPEECH] * 3) == [(3, Onset(start=0, speech=0, heard=W))]


def test_short_silence_then_endpoint() -> None:
    segmenter = opened()
    assert run(segmenter, [SILENCE] * 10) == [
        (3, Quiet(end=12 * W, speech_end=9 * W)),
        (10, Endpoint(end=12 * W, speech_end=9 * W)),
    ]
    assert segmenter.quiet_end == 12 * W


def test_between_the_thresholds_nothing_changes() -> None:
    in_speech = opened()
    assert run(in_speech, [BETWEEN] * 20) == []
    assert not in_speech.is_quiet
    in_silence = opened()
    assert run(in_silence, [SILENCE, *[BETWEEN] * 9]) == [(3, Quiet(12 * W, 9 * W)), (10, Endpoint(12 * W, 9 * W))]


def test_speech_goes_on_after_a_short_silence() -> None:
    segmenter = opened()
    assert run(segmenter, [SILENCE] * 3 + [SPEECH]) == [(3, Quiet(12 * W, 9 * W)), (4, Resumed())]
    assert segmenter.quiet_end is None
    assert segmenter.speech_end == 13 * W


def test_silence_too_short_to_be_told_is_not_resumed_either() -> None:
    segmenter = opened()
    assert run(segmenter, [SILENCE] * 2 + [SPEECH]) == []
    assert segmenter.speech_end == 12 * W


def test_endpoint_does_not_come_before_the_early_decode() -> None:
    assert run(opened(endpoint_ms=32), [SILENCE] * 3) == [(3, Endpoint(12 * W, 9 * W))]


@pytest.mark.parametrize(("endpoint_ms", "windows"), [(200, 7), (224, 7), (225, 8), (500, 16)])
def test_endpoint_is_rounded_up_to_windows(endpoint_ms: int, windows: int) -> None:
    assert run(opened(endpoint_ms), [SILENCE] * 20)[1][0] == windows


def test_a_segment_over_its_limit_is_to_be_cut() -> None:
    # 1.6 s are 50 windows; the segment began 4 before its first speech.
    assert run(opened(), [SPEECH] * 60)[0] == (50 - 7, Limit())


def test_at_the_limit_a_short_silence_is_the_endpoint() -> None:
    assert run(opened(), [SPEECH] * 39 + [SILENCE] * 4) == [
        (42, Quiet(51 * W, 48 * W)),
        (43, Endpoint(51 * W, 48 * W)),
    ]


def test_speech_resumed_in_the_very_window_of_the_limit() -> None:
    events = run(opened(endpoint_ms=3000), [SPEECH] * 37 + [SILENCE] * 5 + [SPEECH] * 2)
    assert events == [(40, Quiet(49 * W, 46 * W)), (43, Resumed()), (44, Limit())]


def test_long_calm_starts_afresh_behind_a_pre_roll() -> None:
    assert run(Segmenter(POLICY, 320), [SILENCE] * 20) == [(20, Idle(at=16 * W))]


def test_calm_is_waited_for() -> None:
    segmenter = Segmenter(POLICY, 320)
    assert run(segmenter, [MURMUR] * 18 + [SILENCE] * 4) == [(22, Idle(at=18 * W))]


@pytest.mark.parametrize("sound", [[MURMUR], [SILENCE, SILENCE, SPEECH, SPEECH]])
def test_sound_that_is_no_speech_does_not_go_on_for_ever(sound: list[float]) -> None:
    events = run(Segmenter(POLICY, 320), sound * 100)
    assert isinstance(events[0][1], Idle)
    assert events[0][0] <= RESTLESS * POLICY.idle_windows + 2


def test_force_opens_what_had_just_begun() -> None:
    segmenter = Segmenter(POLICY, 320)
    run(segmenter, [SILENCE] * 6 + [SPEECH])
    assert segmenter.force() is None
    segmenter.step(SPEECH)
    assert segmenter.force() == Onset(start=2 * W, speech=6 * W, heard=7 * W)
    assert segmenter.force() is None


def test_force_finds_nothing_where_speech_stopped() -> None:
    segmenter = Segmenter(replace(POLICY, onset_windows=5), 320)
    run(segmenter, [SPEECH] * 4 + [BETWEEN])
    assert segmenter.force() is None
