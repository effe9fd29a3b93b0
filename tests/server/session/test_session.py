"""What a session does, one situation at a time."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from server.session.commands import Cancel, Decode, DropPartial, Finish, Punctuate, Send, Store, WantPartial
from server.session.controls import MAX_MARKS, TooManyMarksError
from server.session.marks import FinalizeMark, LanguageMark, to_json
from server.session.messages import Ack, Done, Error, Finalized, Partial, SpeechEnded, SpeechStarted
from server.session.promises import MAX_TAIL
from server.session.session import Session
from server.session.settings import Policy, SessionSettings
from session_store.base import Final

from . import world
from .driver import QUICK, Shell, begin
from .world import GHOST, MURMUR, NOISE, SILENCE, Sound

RATE = 16000


def samples(*sounds: tuple[str, int], rate: int = RATE) -> bytes:
    return world.render([Sound(*sound) for sound in sounds], rate).tobytes()


def hear(shell: Shell, *sounds: tuple[str, int], settle: bool = True) -> None:
    """Sends sounds in frames of 20 ms."""
    rate = shell.session.settings.sample_rate
    data, step = samples(*sounds, rate=rate), rate // 50 * 2
    for start in range(0, len(data), step):
        shell.audio(data[start : start + step])
        if settle:
            shell.settle()


def judge(shell: Shell) -> None:
    """Voice activity answers; nothing else does."""
    while shell.detections:
        shell.detect()


def end(shell: Shell) -> None:
    shell.do(shell.session.end(shell.now))


def finalize(shell: Shell, identifier: str | None = "f") -> None:
    shell.do(shell.session.finalize(identifier, shell.now))


def texts(shell: Shell) -> list[str]:
    return [final.text for final in shell.finals()]


PLAIN = SessionSettings(punctuate=False)
EAGER = replace(QUICK, sure_confidence=0.3, sure_last_confidence=0.3)
"""Shows words that the window's end may have cut in two."""


# Segments and their finals


def test_a_word_gives_started_partials_ended_final_ack() -> None:
    shell = begin()
    hear(shell, (SILENCE, 300), ("Anna", 500), (SILENCE, 700))
    kinds = [type(m).__name__ for m in shell.sent()]
    assert kinds == ["SpeechStarted", *["Partial"] * len(shell.partials()), "SpeechEnded", "Final", "Ack"]
    assert len(shell.partials()) >= 1
    [final] = shell.finals()
    assert (final.seq, final.text, final.language, final.punctuated) == (0, "Annak, en0!", "en", True)
    assert shell.sent()[0] == SpeechStarted(9 * 512 / RATE)
    # The onset is at window 9; 4 windows of pre-roll before it. Speech fades with the window that ends at 0.8 s.
    assert (final.start, final.end) == (0.16, 0.8)
    assert shell.sent(SpeechEnded) == [SpeechEnded(0.8)]
    assert shell.durable.state.acked == shell.rules.acked == (25 + 3) * 512


def test_the_final_was_decoded_before_the_endpoint() -> None:
    shell = begin()
    hear(shell, ("Anna", 500), (SILENCE, 160))
    decodes = [c for c in shell.log if isinstance(c, Decode)]
    assert len(decodes) == 1
    hear(shell, (SILENCE, 500))
    assert [c for c in shell.log if isinstance(c, Decode)] == decodes
    assert texts(shell) == ["Annak, en0!"]


def test_speech_after_a_short_silence_belongs_to_the_segment() -> None:
    shell = begin(PLAIN)
    hear(shell, ("Anna", 300), (SILENCE, 160), ("the", 300), (SILENCE, 700))
    assert texts(shell) == ["annag theg"]


def test_a_pause_answered_late_is_cancelled_by_the_next() -> None:
    shell = begin(PLAIN)
    hear(shell, ("Anna", 300), (SILENCE, 160), ("the", 300), (SILENCE, 160), settle=False)
    judge(shell)
    finals = [c for c in shell.log if isinstance(c, Decode)]
    assert [c.job for c in shell.log if isinstance(c, Cancel)] == [finals[0].job]
    assert shell.decodes == [finals[1]]


def test_finals_come_in_the_order_of_the_audio() -> None:
    shell = begin(PLAIN)
    hear(shell, ("Anna", 400), (SILENCE, 800), ("the", 400), (SILENCE, 800), settle=False)
    judge(shell)
    assert len(shell.decodes) == 2
    shell.decode(1)
    assert shell.stores == type(shell.stores)()
    shell.decode(0)
    assert [s.final.text for s in shell.stores if isinstance(s, Store) and s.final] == ["annai"]
    shell.settle()
    assert texts(shell) == ["annai", "thei"]
    assert [f.seq for f in shell.finals()] == [0, 1]


def test_a_final_and_its_ack_wait_for_the_store() -> None:
    shell = begin(PLAIN)
    hear(shell, ("Anna", 400), (SILENCE, 640), settle=False)
    judge(shell)
    shell.decode()
    assert shell.finals() == shell.sent(Ack) == []
    assert shell.session.owes
    shell.apply_store()
    assert shell.finals() == []
    shell.answer_store()
    assert [type(m) for m in shell.sent()[-2:]] == [Final, Ack]
    assert not shell.session.owes


def test_no_partial_while_it_is_open_whether_an_owed_segment_says_anything() -> None:
    shell = begin(policy=EAGER)
    hear(shell, ("Anna", 400), (SILENCE, 600), ("the", 600), settle=False)
    judge(shell)
    assert not shell.wants_partial
    assert shell.session.take_partial(shell.now) is None
    shell.settle()
    assert [p.seq for p in shell.partials()][-1] == 1


def test_partials_go_on_while_the_store_is_away() -> None:
    shell = begin(policy=EAGER)
    for sound in (("Anna", 400), (SILENCE, 600), (MURMUR, 600), (SILENCE, 600), ("the", 600), (SILENCE, 600)):
        hear(shell, sound, settle=False)
        shell.settle(store_is_away=True)
    hear(shell, ("Tokyo", 600), settle=False)
    shell.settle(store_is_away=True)
    assert shell.finals() == []
    # The murmur says nothing and takes no seq.
    assert {p.seq for p in shell.partials()} == {0, 1, 2}
    shell.settle()
    assert [final.seq for final in shell.finals()] == [0, 1]


def test_partials_go_on_while_a_final_is_decoded_that_is_sure_to_come() -> None:
    shell = begin(policy=EAGER)
    hear(shell, ("Anna", 1500))
    assert shell.partials()[-1].stable
    hear(shell, (SILENCE, 600), ("the", 600), settle=False)
    judge(shell)
    shell.take_partial()
    shell.decode(-1)
    assert shell.partials()[-1].seq == 1
    assert shell.finals() == []


def test_what_is_still_to_be_taken_back_holds_the_seq() -> None:
    shell = begin(PLAIN, EAGER)
    hear(shell, ("Anna", 400), (SILENCE, 600), settle=False)
    shell.settle(store_is_away=True)
    hear(shell, (GHOST, 380), settle=False)
    judge(shell)
    shell.take_partial()
    shell.decode()
    assert [(p.seq, p.text) for p in shell.partials()][-1] == (1, "ghosth")
    hear(shell, (GHOST, 500), (SILENCE, 600), ("the", 600), settle=False)
    judge(shell)
    while shell.decodes:
        shell.decode()
    hear(shell, ("the", 100), settle=False)
    judge(shell)
    assert not shell.wants_partial
    shell.settle()
    assert [(p.seq, p.text[:3]) for p in shell.partials()][-2:] == [(1, ""), (1, "the")]


def test_a_language_may_be_cut_by_a_policy_of_its_own() -> None:
    shell = begin(PLAIN, policies={"fr": replace(QUICK, max_segment_s=1.0)})
    hear(shell, ("Anna", 1600), (SILENCE, 600))
    assert len(shell.finals()) == 1
    shell.do(shell.session.set_language("fr"))
    hear(shell, ("Anna", 1600), (SILENCE, 600))
    assert [final.language for final in shell.finals()] == ["en", "fr", "fr"]


def test_partials_are_wanted_every_hop_and_for_the_oldest_sample() -> None:
    shell = begin()
    hear(shell, ("Anna", 800))
    wanted = [c for c in shell.log if isinstance(c, WantPartial)]
    assert len(wanted) >= 3
    assert all(one.since < other.since for one, other in pairwise(wanted))


def test_no_partials_where_none_are_asked_for() -> None:
    shell = begin(replace(PLAIN, partials=False))
    hear(shell, ("Anna", 800), (SILENCE, 160), ("the", 400), (SILENCE, 800))
    assert shell.partials() == []
    assert not any(isinstance(c, WantPartial) for c in shell.log)
    assert texts(shell) == ["annaq thei"]


def test_a_partial_that_waits_is_dropped_at_a_silence() -> None:
    shell = begin()
    hear(shell, ("Anna", 400), settle=False)
    judge(shell)
    assert shell.wants_partial
    hear(shell, (SILENCE, 120), settle=False)
    judge(shell)
    assert sum(isinstance(c, DropPartial) for c in shell.log) == 1


def with_partial_at_a_silence() -> Shell:
    """A silence has begun while a partial is with the model; its final is decoded ahead."""
    shell = begin(PLAIN, EAGER)
    hear(shell, ("Anna", 400), settle=False)
    judge(shell)
    shell.take_partial()
    hear(shell, ("the", 200), (SILENCE, 120), settle=False)
    judge(shell)
    assert not any(isinstance(c, Cancel) for c in shell.log)
    assert shell.session.take_partial(shell.now) is None
    assert [decode.is_partial for decode in shell.decodes] == [True, False]
    return shell


def test_a_partial_with_the_model_at_a_silence_is_shown_before_the_final() -> None:
    shell = with_partial_at_a_silence()
    shell.decode(0)
    shell.decode(0)
    first, second = (c for c in shell.log if isinstance(c, Send) and isinstance(c.message, Partial))
    assert [c.message.text for c in (first, second) if isinstance(c.message, Partial)] == ["annai", "annai thee"]
    # Clocked from what the window before it did not cover.
    assert (first.since or 0.0) < (second.since or 0.0)
    hear(shell, (SILENCE, 800))
    assert texts(shell) == ["annai thee"]


def test_no_partial_is_wanted_beside_a_final_after_speech_has_gone_on() -> None:
    shell = with_partial_at_a_silence()
    hear(shell, ("the", 400), settle=False)
    judge(shell)
    assert not shell.wants_partial
    shell.decode(1)
    assert shell.wants_partial


def test_a_partial_that_comes_later_than_the_final_is_not_wanted_any_more() -> None:
    shell = with_partial_at_a_silence()
    late = shell.decodes[0].job
    shell.decode(1)
    assert [c.job for c in shell.log if isinstance(c, Cancel)] == [late]
    assert shell.decodes == []
    hear(shell, (SILENCE, 800))
    assert texts(shell) == ["annai thee"]


def test_a_partial_still_with_the_model_at_the_endpoint_is_not_wanted_any_more() -> None:
    shell = with_partial_at_a_silence()
    late = shell.decodes[0].job
    hear(shell, (SILENCE, 800), settle=False)
    judge(shell)
    assert [c.job for c in shell.log if isinstance(c, Cancel)] == [late]
    shell.settle()
    assert texts(shell) == ["annai thee"]


def test_a_lost_partial_costs_the_final_beside_it_nothing() -> None:
    shell = with_partial_at_a_silence()
    assert shell.fail_partial()
    hear(shell, (SILENCE, 800))
    assert texts(shell) == ["annai thee"]
    assert shell.sent(Error) == []


def test_a_lost_final_takes_the_partial_beside_it_along() -> None:
    shell = with_partial_at_a_silence()
    late = shell.decodes[0].job
    shell.fail_decode(1)
    assert [c.job for c in shell.log if isinstance(c, Cancel)] == [late]
    hear(shell, (SILENCE, 800))
    assert texts(shell) == ["annai thee"]


def test_a_second_silence_cancels_all_that_was_asked_for_at_the_first() -> None:
    shell = with_partial_at_a_silence()
    jobs = [decode.job for decode in shell.decodes]
    hear(shell, ("the", 300), (SILENCE, 160), settle=False)
    judge(shell)
    assert [c.job for c in shell.log if isinstance(c, Cancel)] == jobs
    assert len(shell.decodes) == 1


def test_a_long_segment_is_shown_from_windows_that_stay_short() -> None:
    shell = begin(policy=replace(QUICK, max_segment_s=4.0))
    hear(shell, ("Anna", 700), (SILENCE, 60), ("the", 700), (SILENCE, 60), ("Tokyo", 700), (SILENCE, 60), ("Anna", 700))
    windows = [len(decode.audio) for decode in shell.partial_windows]
    assert len(windows) > 20
    assert all(length < 1.0 * RATE for length in windows)
    last = shell.partials()[-1]
    assert last.text.startswith("annao")
    assert last.stable > len("annao the tokyo")
    hear(shell, (SILENCE, 700))
    assert texts(shell) == ["Annao theo Tokyoo Annao, en0!"]


def test_length_limit_cuts_without_losing_or_doubling_a_sample() -> None:
    shell = begin(PLAIN)
    rng = np.random.default_rng(0)
    audio = world.render([Sound("Anna", 9000)], RATE) + rng.integers(-60, 60, 9 * RATE, dtype=np.int16)
    shell.audio(audio.tobytes())
    finals: dict[int, np.ndarray[tuple[int], np.dtype[np.int16]]] = {}
    while actions := shell.due():
        for decode in shell.decodes:
            if decode.job not in shell.partial_jobs:
                finals[decode.job] = decode.audio
        actions[0]()
    end(shell)
    for decode in shell.decodes:
        finals[decode.job] = decode.audio
    shell.settle()
    assert len(finals) == len(shell.finals()) >= 5
    np.testing.assert_array_equal(np.concatenate(list(finals.values())), audio)
    edges = [(final.start, final.end) for final in shell.finals()]
    assert all(one[1] == other[0] for one, other in pairwise(edges))


# Silence, noise and what was never said


def test_what_follows_a_cut_is_clocked_from_the_first_sample_that_no_window_covered() -> None:
    # The cut lies well behind the end of the newest window: what comes after it was on the screen already.
    shell = begin(PLAIN)
    hear(shell, ("the", 1500), ("Anna", 200), ("the", 1900))
    assert len(shell.finals()) == 1
    kinds = [type(c.message) if isinstance(c, Send) else type(c) for c in shell.log]
    cut = kinds.index(SpeechEnded)
    wanted = [[c.since for c in part if isinstance(c, WantPartial)] for part in (shell.log[:cut], shell.log[cut:])]
    shown = [c.since for c in shell.log[cut:] if isinstance(c, Send) and isinstance(c.message, Partial)]
    assert wanted[0][-1] < wanted[1][0] == shown[0]
    first = [c.speech_since for c in shell.log if isinstance(c, Send) and c.speech_since is not None][-1]
    assert wanted[0][-1] < first <= shown[0]


def test_the_first_partial_is_clocked_from_the_first_speech_too() -> None:
    shell = begin(PLAIN)
    hear(shell, (SILENCE, 200), ("Anna", 400), ("the", 600), (SILENCE, 800), ("Anna", 400), ("the", 600))
    partials = [c for c in shell.log if isinstance(c, Send) and isinstance(c.message, Partial)]
    first = [c for c in partials if c.speech_since is not None]
    assert [c.message.seq for c in first if isinstance(c.message, Partial)] == [0, 1]
    assert first[0] is partials[0]
    assert (first[0].speech_since or 0.0) < (first[0].since or 0.0), "words were held back before it"


def test_long_silence_is_acknowledged() -> None:
    shell = begin()
    hear(shell, (SILENCE, 2000))
    # Every 20 windows, behind a pre-roll of 4.
    assert [ack.audio_offset for ack in shell.sent(Ack) if isinstance(ack, Ack)] == [16 * 512, 32 * 512, 48 * 512]
    assert shell.sent(SpeechStarted, Partial, Final) == []


def test_noise_gives_no_text_and_is_acknowledged_in_the_end() -> None:
    shell = begin()
    hear(shell, (NOISE, 6000))
    assert shell.sent(SpeechStarted, Partial, Final) == []
    assert shell.rules.acked > 2 * RATE


def test_speech_without_words_gives_no_final_and_no_gap() -> None:
    shell = begin(PLAIN)
    hear(shell, (MURMUR, 1500), (SILENCE, 800), ("Anna", 400), (SILENCE, 800))
    assert len(shell.sent(SpeechStarted)) >= 2
    assert [(f.seq, f.text) for f in shell.finals()] == [(0, "annai")]
    assert shell.sent(Error) == []


def test_what_was_shown_and_not_said_is_taken_back() -> None:
    shell = begin(PLAIN, EAGER)
    hear(shell, (GHOST, 380), settle=False)
    judge(shell)
    shell.take_partial()
    shell.decode()
    assert [p.text for p in shell.partials()] == ["ghosth"]
    hear(shell, (GHOST, 500), (SILENCE, 800), settle=False)
    judge(shell)
    while shell.decodes:
        shell.decode()
    assert [(p.seq, p.text, p.stable) for p in shell.partials()][-1] == (0, "", 0)
    shell.settle()
    assert shell.finals() == []
    assert isinstance(shell.sent()[-1], Ack)
    hear(shell, ("Anna", 400), (SILENCE, 800))
    assert [(f.seq, f.text) for f in shell.finals()] == [(0, "annai")]


def test_what_was_promised_and_not_said_is_taken_back_by_an_empty_final() -> None:
    shell = begin()
    hear(shell, (GHOST, 200), (NOISE, 30), (GHOST, 400))
    assert shell.partials()[-1].stable > 0
    hear(shell, (GHOST, 400), (SILENCE, 800), ("Anna", 400), (SILENCE, 800))
    assert [(f.seq, f.text, f.punctuated) for f in shell.finals()] == [(0, "", False), (1, "Annai, en0!", True)]


def test_marks_alone_are_no_words() -> None:
    shell = begin()
    hear(shell, ("Anna", 400), (SILENCE, 400), settle=False)
    judge(shell)
    [job] = [decode.job for decode in shell.decodes]
    shell.decodes.clear()
    found = world.decode(np.zeros(512, np.int16), "en")
    shell.do(shell.session.hypothesis(job, replace(found, text="..."), shell.now))
    hear(shell, (SILENCE, 400))
    assert shell.finals() == []
    assert not shell.session.owes


# Failures


def test_a_final_that_cannot_be_decoded_is_told_and_the_session_goes_on() -> None:
    shell = begin(PLAIN)
    hear(shell, ("Anna", 400), (SILENCE, 800), settle=False)
    judge(shell)
    shell.fail_decode(reason="no server")
    [error] = shell.sent(Error)
    assert isinstance(error, Error)
    assert (error.code, error.recoverable) == (1011, True)
    assert error.message == "the speech from 0.00 s to 0.42 s could not be decoded: no server"
    hear(shell, ("the", 400), (SILENCE, 800))
    assert [(f.seq, f.text) for f in shell.finals()] == [(0, "thei")]


def test_an_early_decode_that_fails_is_tried_again_at_the_endpoint() -> None:
    shell = begin(PLAIN)
    hear(shell, ("Anna", 400), (SILENCE, 160), settle=False)
    judge(shell)
    shell.fail_decode()
    hear(shell, (SILENCE, 700))
    assert texts(shell) == ["annai"]
    assert shell.sent(Error) == []


def test_a_final_lost_twice_is_told() -> None:
    shell = begin(PLAIN)
    hear(shell, ("Anna", 400), (SILENCE, 160), settle=False)
    judge(shell)
    shell.fail_decode()
    hear(shell, (SILENCE, 700), settle=False)
    judge(shell)
    shell.fail_decode()
    assert len(shell.sent(Error)) == 1
    assert shell.finals() == []
    assert shell.rules.acked > 0


def test_a_lost_partial_is_followed_by_the_next() -> None:
    shell = begin(policy=EAGER)
    hear(shell, ("Anna", 400), settle=False)
    judge(shell)
    shell.take_partial()
    assert shell.fail_partial()
    assert shell.partials() == shell.sent(Error) == []
    hear(shell, ("Anna", 200))
    assert shell.partials()


def test_a_trim_that_fails_waits_for_new_speech() -> None:
    shell = begin(policy=replace(QUICK, max_segment_s=9.0))
    hear(shell, ("Anna", 900), settle=False)
    judge(shell)
    shell.take_partial()
    assert len(shell.decodes[0].audio) > 0.8 * RATE, "what is new goes first"
    shell.decode()
    before = len(shell.partials())
    shell.take_partial()
    assert len(shell.decodes[0].audio) < 0.8 * RATE, "a window this long is trimmed in the time between"
    shell.fail_decode()
    hear(shell, ("Anna", 20), settle=False)
    judge(shell)
    assert not shell.wants_partial
    hear(shell, ("Anna", 180))
    assert len(shell.partials()) > before


def test_a_final_without_marks_where_punctuation_fails() -> None:
    shell = begin()
    hear(shell, ("Über", 400), (SILENCE, 800), settle=False)
    judge(shell)
    shell.decode()
    shell.punctuate(fails=True)
    shell.settle()
    assert [(f.text, f.punctuated) for f in shell.finals()] == [("Überi", False)]


def test_punctuation_is_told_what_was_said_before() -> None:
    shell = begin()
    hear(shell, *[("Anna", 400), (SILENCE, 800)] * 30)
    asked = [c for c in shell.log if isinstance(c, Punctuate)]
    assert [c.text for c in asked] == ["Annai."] * 30
    assert asked[0].context == ""
    assert asked[2].context == " ".join(texts(shell)[:2])
    assert len(asked[-1].context) == MAX_TAIL
    assert shell.durable.state.tail.endswith(texts(shell)[-1])


def test_answers_to_what_is_no_longer_wanted_are_ignored() -> None:
    shell = begin()
    hear(shell, ("Anna", 400), (SILENCE, 800), settle=False)
    [first] = shell.detections
    session, now = shell.session, shell.now
    nothing = world.decode(np.zeros(512, np.int16), "en")
    assert session.hypothesis(99, nothing, now) == session.decode_failed(99, "why", now) == []
    assert session.punctuated(99, "x", now) == session.stored(99, now) == []
    shell.settle()
    assert session.voice(first.epoch, [0.9] * 9, None, now) == []
    assert session.stored(99, now) == []


def test_a_late_hypothesis_of_a_segment_does_not_reach_the_next() -> None:
    shell = begin()
    hear(shell, ("Anna", 400), settle=False)
    judge(shell)
    shell.take_partial()
    [partial] = shell.decodes
    hear(shell, (SILENCE, 800), ("the", 300))
    found = world.decode(partial.audio, "en")
    assert shell.session.hypothesis(partial.job, found, shell.now) == []


# Controls


def test_finalize_ends_the_open_segment_at_once() -> None:
    shell = begin(PLAIN)
    hear(shell, ("Anna", 450))
    finalize(shell, "x")
    shell.settle()
    assert [type(m) for m in shell.sent()[-4:]] == [SpeechEnded, Final, Ack, Finalized]
    assert shell.sent()[-1] == Finalized("x", 7200)
    assert texts(shell) == ["annaj"]
    hear(shell, ("the", 450), (SILENCE, 800))
    assert texts(shell) == ["annaj", "thej"]


def test_finalize_waits_for_what_voice_activity_has_to_say() -> None:
    shell = begin(PLAIN)
    hear(shell, ("Anna", 450), settle=False)
    finalize(shell)
    hear(shell, ("Anna", 100), settle=False)
    assert shell.sent() == []
    shell.settle()
    assert texts(shell) == ["annaj"]


def test_finalize_with_nothing_open_is_answered_at_once() -> None:
    shell = begin()
    hear(shell, (SILENCE, 300))
    finalize(shell, None)
    assert shell.sent() == [Finalized(None, 4800)]


def test_finalize_twice_is_answered_twice_and_ends_one_segment() -> None:
    shell = begin(PLAIN)
    hear(shell, ("Anna", 450))
    finalize(shell, "a")
    finalize(shell, "b")
    shell.settle()
    assert texts(shell) == ["annaj"]
    assert shell.sent(Finalized) == [Finalized("a", 7200), Finalized("b", 7200)]


def test_finalize_in_a_short_silence_takes_what_is_decoded_already() -> None:
    shell = begin(PLAIN)
    hear(shell, ("Anna", 400), (SILENCE, 160))
    count = sum(isinstance(c, Decode) for c in shell.log)
    finalize(shell)
    assert sum(isinstance(c, Decode) for c in shell.log) == count
    shell.settle()
    assert texts(shell) == ["annai"]


def test_finalize_takes_a_last_syllable_along() -> None:
    shell = begin(PLAIN)
    hear(shell, (SILENCE, 320), ("Anna", 70))
    assert shell.sent() == []
    finalize(shell)
    shell.settle()
    assert [f.text for f in shell.finals()] == ["annab"]


def test_finalize_comes_after_the_finals_before_it() -> None:
    shell = begin(PLAIN)
    hear(shell, ("Anna", 400), (SILENCE, 640), settle=False)
    judge(shell)
    finalize(shell)
    assert shell.sent(Finalized) == []
    shell.settle()
    assert [type(m) for m in shell.sent()[-3:]] == [Final, Ack, Finalized]


def test_language_changes_at_the_next_segment() -> None:
    shell = begin(PLAIN)
    hear(shell, ("Anna", 400))
    shell.do(shell.session.set_language("fr"))
    assert shell.session.language == "en"
    hear(shell, ("Anna", 200), (SILENCE, 800))
    assert shell.session.language == "fr"
    hear(shell, ("the", 400), (SILENCE, 800))
    assert [f.language for f in shell.finals()] == ["en", "fr"]
    assert {p.language for p in shell.partials() if p.seq == 1} == {"fr"}
    assert shell.durable.state.settings["language"] == "fr"
    assert shell.durable.state.marks == ()


@pytest.mark.parametrize(("offset", "language"), [(9 * 512 - 1, "fr"), (9 * 512, "en")])
def test_a_segment_has_the_language_set_before_its_first_speech_was_heard(offset: int, language: str) -> None:
    shell = begin(PLAIN)
    # 8 windows of silence; the ninth is the first of speech.
    data = bytes(2 * 8 * 512) + samples(("Anna", 400), (SILENCE, 800))
    shell.audio(data[: 2 * offset])
    shell.do(shell.session.set_language("fr"))
    shell.audio(data[2 * offset :])
    shell.settle()
    assert [(f.text, f.language) for f in shell.finals()] == [("annai", language)]


def test_the_same_language_again_is_no_change() -> None:
    shell = begin()
    shell.do(shell.session.set_language("en"))
    assert shell.log == []
    shell.do(shell.session.set_language("fr"))
    shell.do(shell.session.set_language("en"))
    assert len(shell.log) == 2
    hear(shell, ("the", 400), (SILENCE, 800))
    assert [f.language for f in shell.finals()] == ["en"]


def test_controls_are_stored_before_their_audio_is_done() -> None:
    shell = begin()
    hear(shell, ("Anna", 400))
    shell.do(shell.session.set_language("fr"))
    finalize(shell, "a")
    shell.apply_store()
    assert list(shell.durable.state.marks) == [to_json(LanguageMark(6400, "fr"))]
    shell.apply_store()
    assert list(shell.durable.state.marks) == [to_json(LanguageMark(6400, "fr")), to_json(FinalizeMark(6400, "a"))]
    assert shell.durable.state.settings["language"] == "en"


def test_a_control_stored_behind_a_final_does_not_bring_the_segment_back() -> None:
    # The final is being stored when the control's write follows it: that one must not name the older offset.
    shell = begin(PLAIN)
    hear(shell, ("Anna", 400), (SILENCE, 800), settle=False)
    judge(shell)
    shell.decode()
    shell.do(shell.session.set_language("fr"))
    shell.apply_store()
    after_final = shell.durable.state
    assert (after_final.next_seq, after_final.acked) == (1, 16 * 512)
    shell.apply_store()
    assert (shell.durable.state.next_seq, shell.durable.state.acked) == (1, 16 * 512)
    assert len(shell.durable.state.marks) == 1


@pytest.mark.parametrize(("identifier", "answers"), [("f", 1), (None, 2)])
def test_a_finalize_said_again_before_its_answer(identifier: str | None, answers: int) -> None:
    """One with a name is the same one, repeated on a new connection; without a name each is one of its own."""
    shell = begin()
    hear(shell, ("Anna", 400), settle=False)
    finalize(shell, identifier)
    shell.do(shell.session.reattach(shell.session.received, shell.now))
    finalize(shell, identifier)
    shell.settle()
    assert len(shell.finals()) == 1
    assert len(shell.sent(Finalized)) == answers
    assert max(len(command.state.marks) for command in shell.log if isinstance(command, Store)) == 1


def test_a_finalize_said_again_with_audio_that_is_still_judged() -> None:
    shell = begin()
    hear(shell, ("Anna", 400), settle=False)
    at = shell.session.received
    finalize(shell)
    hear(shell, ("Anna", 400), settle=False)
    shell.do(shell.session.reattach(0, shell.now))
    shell.audio(samples(("Anna", 400)))
    finalize(shell)
    shell.settle()
    assert shell.sent(Finalized) == [Finalized("f", at)]


def test_too_many_controls() -> None:
    shell = begin()
    for number in range(MAX_MARKS):
        finalize(shell, f"f{number}")
    before = len(shell.log)
    with pytest.raises(TooManyMarksError, match="send fewer"):
        finalize(shell, "one more")
    with pytest.raises(TooManyMarksError):
        shell.session.set_language("fr")
    assert len(shell.log) == before
    hear(shell, ("Anna", 400), (SILENCE, 800))
    finalize(shell)
    assert len(shell.sent(Finalized)) == MAX_MARKS + 1


def test_answers_that_wait_for_a_final_are_bounded() -> None:
    shell = begin(PLAIN)
    hear(shell, ("Anna", 400), settle=False)
    judge(shell)
    for _ in range(MAX_MARKS):
        finalize(shell)
        while shell.detections:
            shell.detect()
    with pytest.raises(TooManyMarksError, match="send fewer"):
        finalize(shell)
    shell.settle()
    assert len(shell.sent(Finalized)) == MAX_MARKS
    finalize(shell)
    assert len(shell.sent(Finalized)) == MAX_MARKS + 1


# The end


def test_end_in_mid_word_keeps_the_last_word() -> None:
    shell = begin(PLAIN)
    hear(shell, ("Anna", 400), (SILENCE, 800), ("the", 110))
    end(shell)
    shell.settle()
    assert texts(shell) == ["annai", "thec"]
    total = len(samples(("Anna", 400), (SILENCE, 800), ("the", 110))) // 2
    assert shell.sent()[-2:] == [Ack(total), Done(total, 2, 1.31)]
    assert shell.log[-1] == Finish(1.31)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_the_last_final_hears_all_that_the_resampler_holds(rate: int) -> None:
    shell = begin(replace(PLAIN, sample_rate=rate, partials=False))
    hear(shell, ("Anna", 410))
    end(shell)
    [last] = shell.decodes
    assert len(last.audio) == -(-shell.session.received * 16000 // rate)


def test_end_of_nothing() -> None:
    shell = begin()
    end(shell)
    assert shell.sent() == [Done(0, 0, 0.0)]
    assert shell.log[-1] == Finish(0.0)


def test_what_comes_after_the_end_is_ignored() -> None:
    shell = begin()
    hear(shell, ("Anna", 400), settle=False)
    end(shell)
    before = len(shell.log)
    hear(shell, ("the", 400), settle=False)
    end(shell)
    finalize(shell)
    shell.do(shell.session.set_language("fr"))
    assert len(shell.log) == before
    shell.settle()
    assert sum(isinstance(c, Finish) for c in shell.log) == 1
    assert texts(shell) == ["Annai, en0!"]


def test_half_a_sample_waits_for_its_other_half() -> None:
    shell = begin()
    shell.audio(b"\0")
    assert shell.session.received == 0
    shell.audio(b"\0\0")
    assert shell.session.received == 1
    shell.audio(b"")
    assert shell.session.received == 1


# Backpressure and memory


def wants_audio(shell: Shell) -> bool:
    return shell.session.wants_audio


def test_audio_is_not_wanted_while_voice_activity_is_behind() -> None:
    shell = begin()
    hear(shell, (SILENCE, 4000), settle=False)
    assert wants_audio(shell)
    hear(shell, (SILENCE, 20), settle=False)
    assert not wants_audio(shell)
    shell.detect()
    assert wants_audio(shell)


def test_audio_is_not_wanted_while_finals_are_behind() -> None:
    shell = begin(policy=replace(QUICK, max_backlog_s=1.0))
    hear(shell, ("Anna", 400), (SILENCE, 800), settle=False)
    judge(shell)
    assert wants_audio(shell)
    hear(shell, ("Anna", 500), (SILENCE, 800), settle=False)
    judge(shell)
    assert not wants_audio(shell)
    shell.settle()
    assert wants_audio(shell)


@pytest.mark.parametrize(
    ("sound", "rate"),
    [
        (SILENCE, 16000),
        (NOISE, 16000),
        ("Anna", 16000),
        pytest.param(SILENCE, 44100, marks=pytest.mark.soak),
        pytest.param(NOISE, 44100, marks=pytest.mark.soak),
        pytest.param(MURMUR, 44100, marks=pytest.mark.soak),
        pytest.param("Anna", 44100, marks=pytest.mark.soak),
    ],
)
def test_an_hour_of_anything_needs_no_more_memory_than_a_minute(sound: str, rate: int) -> None:
    # The policy of the product; detector and decoder say always the same, since an hour is long.
    probability = {SILENCE: 0.02, NOISE: 0.3, MURMUR: 0.49, "Anna": 0.95}[sound]
    nothing = world.decode(np.zeros(512, np.int16), "en")
    shell = begin(replace(PLAIN, sample_rate=rate, partials=False), Policy())
    second = samples((sound, 1000), rate=rate)
    most = 0
    for _ in range(3600):
        shell.audio(second)
        while shell.detections:
            request = shell.detections.pop()
            count = len(request.samples) // 512
            shell.do(shell.session.voice(request.epoch, [probability] * count, None, shell.now))
        while shell.decodes:
            shell.do(shell.session.hypothesis(shell.decodes.pop().job, nothing, shell.now))
        shell.log.clear()
        most = max(most, held_bytes(shell.session))
    assert shell.session.audio_seconds == 3600
    # Four times what a segment or the longest calm needs, at two bytes a sample and at both rates.
    assert most < 4 * 2 * 26 * (16000 + rate)
    assert shell.rules.acked > 3560 * rate


def held_bytes(session: Session) -> int:
    """Audio in every buffer of the chain."""
    chain = session._chain
    return chain._input.nbytes + chain._resampled.nbytes


# Another connection to the same session


def test_an_overlap_is_dropped() -> None:
    shell = begin(PLAIN)
    hear(shell, ("Anna", 400), settle=False)
    shell.do(shell.session.reattach(3200, shell.now))
    assert shell.session.received == 6400
    shell.audio(samples(("Anna", 100)))
    assert shell.session.received == 6400
    shell.audio(samples(("Anna", 100), ("the", 400), (SILENCE, 800)))
    shell.settle()
    assert texts(shell) == ["annai thei"]


def test_half_a_sample_of_the_old_connection_is_forgotten() -> None:
    shell = begin(PLAIN)
    shell.audio(b"\0\0\0")
    shell.do(shell.session.reattach(1, shell.now))
    hear(shell, ("Anna", 400), (SILENCE, 800))
    assert texts(shell) == ["annai"]
    assert shell.session.received == 1 + 1200 * RATE // 1000


def test_a_new_connection_is_shown_the_partial_again() -> None:
    shell = begin(policy=replace(QUICK, trim_after_s=9.0, max_segment_s=9.0))
    hear(shell, ("the", 1500))
    shown = shell.partials()
    hear(shell, ("the", 200))
    assert shell.partials() == shown
    assert shown[-1].text == "thez"
    shell.do(shell.session.reattach(shell.session.received, shell.now))
    shell.rules.reattached()
    hear(shell, ("the", 200))
    assert [p.text for p in shell.partials()[len(shown) :]] == ["thez"]


def test_controls_heard_before_do_nothing_but_get_their_answer() -> None:
    shell = begin(PLAIN)
    hear(shell, ("Anna", 400))
    finalize(shell, "a")
    shell.do(shell.session.set_language("fr"))
    shell.settle()
    hear(shell, ("the", 400))
    shell.do(shell.session.reattach(3200, shell.now))
    shell.audio(samples(("Anna", 200)))
    finalize(shell, "a")
    shell.do(shell.session.set_language("de"))
    shell.audio(samples(("the", 400), (SILENCE, 800), ("Tokyo", 400), (SILENCE, 800)))
    shell.settle()
    assert shell.sent(Finalized) == [Finalized("a", 6400), Finalized("a", 6400)]
    said = [(f.text, f.language) for f in shell.finals()]
    assert said == [("annai", "en"), ("thei", "fr"), ("tokyoi", "fr")]


def test_a_finalize_said_again_while_it_waits_is_answered_once() -> None:
    shell = begin(PLAIN)
    hear(shell, ("Anna", 400), settle=False)
    finalize(shell, "a")
    hear(shell, ("Anna", 400), settle=False)
    shell.do(shell.session.reattach(0, shell.now))
    shell.audio(samples(("Anna", 400)))
    finalize(shell, "a")
    shell.audio(samples(("Anna", 400)))
    shell.settle()
    assert texts(shell) == ["annai"]
    assert shell.sent(Finalized) == [Finalized("a", 6400)]


def test_done_is_said_again_to_a_connection_that_missed_it() -> None:
    shell = begin(PLAIN)
    hear(shell, ("Anna", 400))
    end(shell)
    while shell.sent(Done) == []:
        shell.due()[0]()
    shell.rules.reattached()
    shell.do(shell.session.reattach(0, shell.now))
    assert [type(m) for m in shell.sent()[-2:]] == [Done, Done]


# Gaps


def test_a_gap_ends_the_open_segment_and_moves_the_clock() -> None:
    shell = begin(PLAIN)
    hear(shell, ("Anna", 400))
    shell.do(shell.session.reattach(10 * RATE, shell.now))
    assert shell.session.received == 10 * RATE
    shell.settle()
    assert texts(shell) == ["annai"]
    assert shell.sent(Ack) == [Ack(6400), Ack(10 * RATE)]
    hear(shell, (SILENCE, 320), ("the", 400), (SILENCE, 800))
    [_, final] = shell.finals()
    assert final.text == "thei"
    assert final.start == pytest.approx(10 + 6 * 0.032)
    assert final.end == pytest.approx(10 + 23 * 0.032)
    assert shell.durable.state.acked > 10 * RATE


def test_what_came_before_a_gap_is_judged_whenever_voice_activity_answers() -> None:
    shell = begin(PLAIN)
    hear(shell, ("Anna", 400), settle=False)
    shell.do(shell.session.reattach(10 * RATE, shell.now))
    hear(shell, ("the", 400), settle=False)
    shell.do(shell.session.reattach(20 * RATE, shell.now))
    hear(shell, ("Tokyo", 400), settle=False)
    finalize(shell, "z")
    assert shell.session.received == 20 * RATE + 6400
    assert shell.finals() == []
    shell.settle()
    assert texts(shell) == ["annai", "thei", "tokyoi"]
    assert [f.start for f in shell.finals()] == [0, 10, 20]
    assert shell.sent(Finalized) == [Finalized("z", 20 * RATE + 6400)]


def test_a_gap_over_stored_controls_answers_them() -> None:
    marks = (to_json(LanguageMark(8000, "fr")), to_json(FinalizeMark(9000, "a")))
    shell = begin(PLAIN, marks=marks)
    hear(shell, ("Anna", 400))
    shell.do(shell.session.reattach(2 * RATE, shell.now))
    shell.settle()
    assert shell.sent(Finalized) == [Finalized("a", 9000)]
    hear(shell, ("the", 400), (SILENCE, 800))
    assert [(f.text, f.language) for f in shell.finals()] == [("annai", "en"), ("thei", "fr")]


def test_a_gap_after_the_end_is_nothing() -> None:
    shell = begin()
    hear(shell, ("Anna", 400), settle=False)
    end(shell)
    shell.do(shell.session.reattach(10 * RATE, shell.now))
    shell.settle()
    assert shell.sent(Done) == [Done(6400, 1, 0.4)]


# Continuing from the store


def test_controls_in_the_store_need_not_be_said_again() -> None:
    whole = begin(PLAIN)
    hear(whole, ("Anna", 400))
    finalize(whole, "a")
    hear(whole, ("the", 400))
    whole.do(whole.session.set_language("fr"))
    hear(whole, (SILENCE, 800), ("Tokyo", 400), (SILENCE, 800))

    first = begin(PLAIN)
    hear(first, ("Anna", 400), settle=False)
    finalize(first, "a")
    hear(first, ("the", 400), settle=False)
    first.do(first.session.set_language("fr"))
    while first.stores:
        first.apply_store()
    state = first.durable.state
    assert (state.acked, len(state.marks)) == (0, 2)
    second = Shell(Session(state, PLAIN, QUICK, from_offset=0), first.durable)
    hear(second, ("Anna", 400), ("the", 400), (SILENCE, 800), ("Tokyo", 400), (SILENCE, 800))
    assert second.finals() == whole.finals()
    assert [f.language for f in second.finals()] == ["en", "en", "fr"]
    assert second.sent(Finalized) == [Finalized("a", 6400)]


def test_from_before_the_stored_offset_the_overlap_is_dropped() -> None:
    shell = begin(PLAIN, acked=6400, next_seq=3)
    session = Session(shell.durable.state, PLAIN, QUICK, from_offset=1600)
    shell = Shell(session, shell.durable)
    assert session.received == 6400
    shell.audio(samples(("Tokyo", 300), ("Anna", 400), (SILENCE, 800)))
    shell.settle()
    [final] = shell.finals()
    assert (final.seq, final.text, final.start) == (3, "annai", 0.4)


def test_from_behind_the_stored_offset_there_is_a_gap() -> None:
    marks = (to_json(LanguageMark(7000, "fr")), to_json(FinalizeMark(8000, "a")))
    shell = begin(PLAIN, acked=6400, marks=marks)
    session = Session(shell.durable.state, PLAIN, QUICK, from_offset=16000)
    assert (session.received, session.language, session.state().marks) == (16000, "fr", ())
    shell = Shell(session, shell.durable)
    hear(shell, ("Anna", 400), (SILENCE, 800))
    [final] = shell.finals()
    assert (final.start, final.language) == (1.0, "fr")
    assert shell.sent(Finalized) == []
