from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from perf.clocks import (
    Percentiles,
    Span,
    Timeline,
    histogram_between,
    percentile,
    read_clocks,
    read_flicker,
    voiced_spans,
)
from starling_client import Event, Final, Partial

CLIPS = Path(__file__).parent.parent / "data" / "audio"


def partial(text: str, end: float, *, seq: int = 0, stable: int = 0, start: float = 1.0) -> Partial:
    return Partial(text, seq=seq, start=start, end=end, stable=stable, language="en")


def final(text: str, end: float, *, seq: int = 0, start: float = 1.0) -> Final:
    return Final(text, seq=seq, start=start, end=end, confidence=1.0, punctuated=True, language="en")


def real_time(seconds: float) -> Timeline:
    """Frames of 20 ms, each sent at its end, from the time 100 on."""
    timeline = Timeline()
    for frame in range(1, round(seconds / 0.02) + 1):
        timeline.sent(frame * 0.02, 100 + frame * 0.02)
    return timeline


def test_a_sample_arrives_with_the_frame_that_holds_it() -> None:
    timeline = real_time(1)
    assert timeline.arrival(0.0) == pytest.approx(100.02)
    assert timeline.arrival(0.019) == pytest.approx(100.02)
    assert timeline.arrival(0.02) == pytest.approx(100.04)
    assert timeline.arrival(5.0) == pytest.approx(101.0)


def test_the_clocks_of_one_segment() -> None:
    events: list[tuple[float, Event]] = [
        (101.60, partial("one", 1.5)),
        (101.95, partial("one two", 1.8)),
        (102.90, final("One two.", 2.3)),
    ]
    clocks = read_clocks(events, real_time(3), [Span(1.1, 1.6), Span(1.8, 2.3)])
    assert clocks.first_partial == pytest.approx([101.60 - 101.12])
    assert clocks.partial_lag == pytest.approx([101.95 - 101.52])
    assert clocks.end_to_final == pytest.approx([102.90 - 102.30], abs=0.001)
    assert clocks.cut_segments == 0


def test_a_segment_that_was_cut_in_speech_has_no_end_of_speech() -> None:
    events: list[tuple[float, Event]] = [(103.0, final("cut", 2.3))]
    for spans in ([Span(1.1, 3.0)], [Span(1.1, 2.3), Span(2.6, 3.0)]):
        clocks = read_clocks(events, real_time(4), spans)
        assert (clocks.end_to_final, clocks.cut_segments) == ([], 1)


def test_a_segment_that_was_taken_back_leaves_its_number_to_the_next() -> None:
    events: list[tuple[float, Event]] = [
        (101.5, partial("hm", 1.4)),
        (101.6, partial("", 1.5)),
        (103.0, partial("hello", 2.9, start=2.5)),
    ]
    clocks = read_clocks(events, real_time(4), [Span(2.6, 3.5)])
    assert len(clocks.partial_lag) == 0
    assert clocks.first_partial == pytest.approx([101.5 - 102.62, 103.0 - 102.62])


def test_flicker_counts_words_that_were_changed_not_those_that_moved() -> None:
    flicker = read_flicker(
        [
            partial("the cat", 1.2),
            partial("the black cat", 1.4),
            partial("the black hat", 1.6),
            final("The black cat sat.", 2.0),
            partial("it", 2.2, seq=1),
            final("It.", 2.4, seq=1),
        ]
    )
    assert (flicker.changed_words, flicker.final_words) == (2, 5)
    assert flicker.rate == pytest.approx(0.4)


def test_flicker_follows_the_words_over_a_cut() -> None:
    flicker = read_flicker(
        [
            partial("the black cat sad on", 2.4),
            partial("on", 2.5, seq=1, start=2.0),
            final("The black cat sat", 2.0),
            partial("on a mat", 2.8, seq=1, start=2.0),
            final("on the mat.", 3.0, seq=1, start=2.0),
        ]
    )
    assert (flicker.changed_words, flicker.final_words) == (2, 7), "sad and a; on has moved"


def test_a_segment_that_was_none_leaves_its_number_to_the_next() -> None:
    flicker = read_flicker([partial("uh", 1.2), partial("", 1.4), partial("well", 2.2), final("Well.", 2.4)])
    assert (flicker.changed_words, flicker.final_words) == (1, 1)


@pytest.mark.parametrize(
    ("after", "kept"), [(partial("one twx", 2, stable=6), True), (partial("one", 2, stable=3), False),
                        (partial("onx two", 2, stable=7), False)],
)  # fmt: skip
def test_a_stable_word_that_is_taken_back_is_found(after: Partial, kept: bool) -> None:
    flicker = read_flicker([partial("one two", 1.5, stable=6), after])
    assert (flicker.stable_violations == []) is kept


def noise(seconds: float, level: float) -> npt.NDArray[np.int16]:
    return (np.random.default_rng(1).standard_normal(round(seconds * 16000)) * level).astype(np.int16)


def test_speech_is_found_between_noise_within_a_frame_or_two() -> None:
    audio = np.concatenate((noise(1, 20), noise(0.8, 3000), noise(0.1, 20), noise(0.5, 3000), noise(1.2, 20)))
    audio[500:600] = 20000
    (span,) = voiced_spans(audio, 16000)
    assert span.start == pytest.approx(1.0, abs=0.02)
    assert span.end == pytest.approx(2.4, abs=0.02)
    assert voiced_spans(noise(0.001, 9), 16000) == []


@pytest.mark.parametrize("clip", ["librivox_sense_0870", "librivox_sense_0880", "librivox_sense_0920"])
def test_nothing_of_real_speech_lies_behind_its_end(clip: str) -> None:
    samples, rate = soundfile.read(CLIPS / f"{clip}.wav", dtype="int16")
    spans = voiced_spans(samples, rate)
    energy = samples.astype(np.float64) ** 2
    outside = energy[: round(spans[0].start * rate)].sum() + energy[round(spans[-1].end * rate) :].sum()
    assert outside < 0.005 * energy.sum()
    assert spans[-1].end < len(samples) / rate - 0.1, "the clips end in silence"


def test_percentiles_are_values_that_were_read() -> None:
    values = [float(value) for value in range(1, 101)]
    assert Percentiles.of(values) == Percentiles(100, 50.0, 95.0, 99.0)
    assert percentile([7.0], 95) == 7.0
    assert Percentiles.of([]) == Percentiles(0, None, None, None)


def test_a_histogram_is_read_between_two_scrapes() -> None:
    def scrape(low: int, high: int, everything: int, seconds: float) -> str:
        return (
            f'lag_bucket{{le="0.1",model="a"}} {low}\nlag_bucket{{le="0.5",model="a"}} {high}\n'
            f'lag_bucket{{le="+Inf",model="a"}} {everything}\nlag_sum{{model="a"}} {seconds}\nlag_created 1\n'
            'lag_bucket{le="0.1",model="b"} 5\nlag_bucket{le="+Inf",model="b"} 5\n'
        )

    figures = histogram_between(scrape(1, 2, 2, 1.0), scrape(61, 97, 102, 11.0), "lag")
    assert figures == {"count": 100, "mean": 0.1, "p50_at_most": 0.1, "p95_at_most": 0.5, "p99_at_most": None}
