from __future__ import annotations

import numpy as np
import pytest

from server.session.segment import ENERGY_FRAME, PAUSE_OVERLAP, Hypothesis, Job, Kind, Segment, quietest
from server.session.settings import RATE, VAD_WINDOW, Policy

POLICY = Policy(hop_windows=10, first_hop_windows=12, trim_after_s=8.0, trim_keep_s=1.5)


def segment() -> Segment:
    return Segment(POLICY, start=1000, speech=3000, language="en", start_s=5.0)


def heard(text: str, *tokens: int, language: str = "en") -> Hypothesis:
    return Hypothesis(text, np.array(tokens, np.int32), 0.5, language)


def job(kind: Kind, start: int, end: int) -> Job:
    return Job(1, kind, start, end)


def test_the_first_partial_waits_longer_than_the_next() -> None:
    one = segment()
    assert not one.is_due(3000 + 12 * VAD_WINDOW - 1)
    assert one.is_due(3000 + 12 * VAD_WINDOW)
    one.take(job(Kind.PARTIAL, 1000, 9000), heard("a"))
    assert not one.is_due(9000 + 10 * VAD_WINDOW - 1)
    assert one.is_due(9000 + 10 * VAD_WINDOW)
    one.job = job(Kind.PARTIAL, 1000, 20000)
    assert not one.is_due(10**6)


def test_drafts_are_the_tokens_heard_so_far() -> None:
    one = segment()
    assert one.draft(1000).tolist() == []
    one.take(job(Kind.PARTIAL, 1000, 9000), heard("a b", 1, 2))
    assert one.draft(1000).tolist() == [1, 2]
    one.take(job(Kind.COMMIT, 1000, 6000), heard("a", 1))
    assert one.base == 6000
    assert one.draft(6000).tolist() == [2]
    one.take(job(Kind.PARTIAL, 6000, 12000), heard("b c", 2, 3))
    assert one.draft(6000).tolist() == [2, 3]
    assert one.draft(1000).tolist() == [1, 2, 3]
    one.take(job(Kind.COMMIT, 6000, 9000), heard("b", 2))
    assert one.draft(1000).tolist() == [1, 2, 3]
    assert one.prefix.text == "a b"


def test_a_commit_covers_nothing_new() -> None:
    one = segment()
    one.take(job(Kind.PARTIAL, 1000, 9000), heard("a"))
    one.take(job(Kind.COMMIT, 1000, 6000), heard("a"))
    assert one.covered == 9000


def test_the_language_is_what_was_heard_last() -> None:
    one = segment()
    assert one.text_language == "en"
    one.take(job(Kind.PARTIAL, 1000, 9000), heard("a", language="fr"))
    assert one.text_language == "fr"
    one.take(job(Kind.FINAL, 1000, 9000), heard("a", language="de"))
    assert one.text_language == "de"


def test_a_lost_partial_waits_for_new_speech() -> None:
    one = segment()
    one.lose(job(Kind.PARTIAL, 1000, 9000), detected=20000)
    assert one.covered == 9000
    assert one.job is None


def test_a_lost_commit_is_not_tried_again_at_once() -> None:
    one = segment()
    one.take(job(Kind.PARTIAL, 1000, 150_000), heard("a"))
    one.lose(job(Kind.COMMIT, 1000, 90_000), detected=155_000)
    assert not one.is_due(155_000 + 9 * VAD_WINDOW)
    assert one.is_due(155_000 + 10 * VAD_WINDOW)


def test_a_long_window_is_trimmed_inside() -> None:
    one = segment()
    end = 1000 + 8 * RATE
    one.take(job(Kind.PARTIAL, 1000, end), heard("a"))
    assert one.trim_range(end) is None
    assert not one.is_due(end)
    one.take(job(Kind.PARTIAL, 1000, end + 1), heard("a"))
    assert one.trim_range(end + 1) == (1000 + 24000, end + 1 - 24000)
    assert one.is_due(end + 1)


def test_a_partial_that_is_due_goes_before_a_trim_unless_that_is_long_overdue() -> None:
    one = segment()
    end = 1001 + 8 * RATE
    one.take(job(Kind.PARTIAL, 1000, end), heard("a"))
    assert one.trim_range(end + 10 * VAD_WINDOW) is None
    assert one.is_due(end + 10 * VAD_WINDOW)
    late = end + int(1.5 * RATE)
    one.take(job(Kind.PARTIAL, 1000, late), heard("a"))
    assert one.trim_range(late + 10 * VAD_WINDOW) == (1000 + 24000, late - 24000)


def test_speech_after_a_pause_leaves_what_came_before_behind() -> None:
    one = segment()
    one.quiet()
    one.take(job(Kind.FINAL, 1000, 41000), heard("a b", 1, 2))
    one.resume()
    assert one.base == 41000 - PAUSE_OVERLAP
    assert one.prefix.stable == len("a b")
    assert one.draft(one.base).tolist() == []
    assert one.draft(1000).tolist() == [1, 2]


def test_the_answer_to_a_pause_may_come_after_speech_went_on() -> None:
    one = segment()
    one.quiet()
    one.job = job(Kind.FINAL, 1000, 41000)
    one.resume()
    assert one.base == 1000
    one.take(one.job, heard("a b", 1, 2))
    assert one.base == 41000 - PAUSE_OVERLAP


def test_a_second_pause_is_left_behind_only_once_speech_goes_on() -> None:
    one = segment()
    one.quiet()
    one.lose(job(Kind.FINAL, 1000, 30000), detected=30000)
    one.resume()
    one.quiet()
    one.take(job(Kind.FINAL, 1000, 41000), heard("a b"))
    assert one.base == 1000
    one.resume()
    assert one.base == 41000 - PAUSE_OVERLAP


def test_a_short_beginning_is_not_left_behind() -> None:
    one = segment()
    one.quiet()
    one.take(job(Kind.FINAL, 1000, 1000 + 23999), heard("a"))
    one.resume()
    assert one.base == 1000


def test_a_pause_that_could_not_be_decoded_leaves_nothing_behind() -> None:
    one = segment()
    one.quiet()
    one.lose(job(Kind.FINAL, 1000, 41000), detected=41000)
    one.resume()
    assert one.base == 1000


def test_a_final_over_a_trimmed_segment_does_not_spoil_its_draft() -> None:
    one = segment()
    one.take(job(Kind.COMMIT, 1000, 30000), heard("a", 1))
    one.take(job(Kind.PARTIAL, 30000, 40000), heard("b", 2))
    one.take(job(Kind.FINAL, 1000, 41000), heard("a b", 1, 2))
    assert one.draft(30000).tolist() == [2]


def tone(length: int, *quiet: tuple[int, int]) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    audio = np.full(length, 5000, np.int16)
    for start, stop in quiet:
        audio[start:stop] = 10
    return audio


def test_quietest_is_the_middle_of_the_quiet_stretch() -> None:
    assert quietest(tone(32000, (16000, 16000 + 8 * ENERGY_FRAME))) == 16000 + 4 * ENERGY_FRAME


def test_quietest_takes_the_later_of_equals() -> None:
    assert quietest(tone(64000, (16000, 19200), (48000, 51200))) > 48000
    assert quietest(tone(32000)) == 32000 - 4 * ENERGY_FRAME


@pytest.mark.parametrize("length", [0, 1, 8 * ENERGY_FRAME - 1])
def test_quietest_of_very_little_is_its_end(length: int) -> None:
    assert quietest(tone(length)) == length


def test_quietest_of_full_scale_does_not_overflow() -> None:
    audio = np.full(32000, -32768, np.int16)
    audio[6400:9600] = 30000
    assert 6400 < quietest(audio) < 9600
