from __future__ import annotations

import random

import pytest

from engines.punctuation.lexicon import Lexicon, Prior
from engines.punctuation.text import Mark, Unit, join, parse
from training.punctuation import casing
from training.punctuation.documents import UNKNOWN_CASE, Labelled, label, split_of
from training.punctuation.sources import Document
from training.punctuation.speech import MAX_UNITS, Segment, cut, misheard, transcribed
from training.punctuation.spoken import say

LEXICON = Lexicon({"we": Prior.LOWER, "london": Prior.CAPITALISED, "will": Prior.MOSTLY_LOWER, "her": Prior.LOWER}, {})


def labelled(text: str, source: str = "wiki") -> list[Labelled]:
    return label(Document(source, "name", tuple(text.split("|"))), LEXICON)


def marks(text: str) -> list[int]:
    (passage,) = labelled(text)
    return [unit.mark for unit in passage.units]


def passage(sentences: int = 40) -> Labelled:
    units = tuple(parse(" ".join(["We went home, and it was late."] * sentences)))
    return Labelled(units, (0,) * len(units))


def test_brackets_and_quotes_are_not_spoken() -> None:
    (found,) = labelled("Ada (born 1815) said “yes” to them.")
    assert join(found.units) == "Ada said yes to them."


def test_semicolons_colons_and_dashes_count_as_commas() -> None:
    assert marks("We came; we saw: we won—all.") == [0, 1, 0, 1, 0, 1, 2]


def test_a_sentence_end_before_a_small_letter_is_a_pause_or_nothing() -> None:
    assert marks("Is it? said he, vs. approx. ten.") == [0, 1, 0, 1, 0, 0, 2]


def test_the_casing_of_a_first_word_is_learnt_only_where_it_is_known() -> None:
    passages = labelled("We saw London. London will. Will we? Ann did.")
    assert passages[0].cases == (0, 0, 1, 1, 0, UNKNOWN_CASE, 0, UNKNOWN_CASE, 0)


def test_capitals_that_stress_are_taken_back() -> None:
    (found,) = labelled("We saw HER and NASA.")
    assert join(found.units) == "We saw her and NASA."


def test_careless_messages_break_the_chat_and_are_left_out() -> None:
    found = labelled("How are you?|im good|We like it here. It is warm.|Good to hear!", "chat")
    assert [join(p.units) for p in found] == ["How are you?", "We like it here. It is warm. Good to hear!"]


def test_splits_follow_the_name_alone() -> None:
    splits = [split_of(Document("chat", str(i), ())) for i in range(3000)]
    assert splits == [split_of(Document("chat", str(i), ("other",))) for i in range(3000)]
    assert 60 < splits.count("test") < 180
    assert 25 < splits.count("dev") < 110
    assert split_of(Document("austen", "sensesensibility", ())) == "test"
    assert split_of(Document("austen", "emma", ())) == "train"


def test_cutting_loses_no_unit_and_context_is_what_came_before() -> None:
    whole = passage()
    segments = list(cut([whole, whole], random.Random(1)))
    units = [unit for segment in segments for unit in segment.truth]
    assert units == [*whole.units, *whole.units]
    assert max(len(segment.truth) for segment in segments) <= MAX_UNITS
    done: list[Unit] = []
    for segment in segments:
        assert list(segment.context) == done[len(done) - len(segment.context) :]
        assert segment.context_mark == (done[-1].mark if done else 0)
        done += segment.truth


def test_about_a_third_of_the_cuts_leave_a_sentence_open() -> None:
    segments = [segment for seed in range(60) for segment in cut([passage()], random.Random(seed))]
    closed = sum(segment.truth[-1].mark == Mark.STOP for segment in segments) / len(segments)
    assert 0.5 < closed < 0.9


def test_mistakes_keep_units_and_casing_in_step_and_sentences_closed() -> None:
    rng = random.Random(3)
    whole = passage(5)
    changed = 0
    for _ in range(200):
        segment = misheard(Segment((), whole.units, whole.cases), ["banana"], rng)
        assert len(segment.truth) == len(segment.cases)
        assert sum(unit.mark == Mark.STOP for unit in segment.truth) >= 4
        changed += segment.truth != whole.units
    assert 50 < changed < 150


def test_an_asr_model_changes_marks_and_casing_but_no_word() -> None:
    rng = random.Random(5)
    whole = passage(5)
    segment = Segment((), whole.units, whole.cases)
    heard = [transcribed(segment, rng) for _ in range(50)]
    assert all([u.form.lower() for u in h] == [u.form.lower() for u in whole.units] for h in heard)
    assert all(h[0].form == "We" for h in heard)
    assert sum(h != whole.units for h in heard) > 40


@pytest.mark.parametrize(
    ("digits", "words"),
    [
        ("0", "zero"),
        ("42", "forty two"),
        ("700", "seven hundred"),
        ("1905", "nineteen oh five"),
        ("1940", "nineteen forty"),
        ("1900", "nineteen hundred"),
        ("2005", "two thousand five"),
        ("2024", "twenty twenty four"),
    ],
)
def test_numbers_are_said_as_people_say_them(digits: str, words: str) -> None:
    assert say(digits) == words.split()


@pytest.mark.parametrize("digits", ["", "007", "12345", "3.5", "five", "²"])
def test_what_is_no_small_whole_number_is_left_alone(digits: str) -> None:
    assert say(digits) is None


def test_the_lexicon_takes_buckets_from_the_statistics_and_spellings_from_the_texts_too() -> None:
    counts = {"the": 90, "The": 10, "London": 50, "NASA": 9, "McDonald": 5, "odd": 1}
    lexicon = casing.build(counts, [Unit("YouTube")] * 3 + [Unit("BlaBla")])
    assert {form: lexicon.prior(form) for form in ("the", "london", "nasa", "odd", "youtube")} == {
        "the": Prior.LOWER,
        "london": Prior.CAPITALISED,
        "nasa": Prior.UPPER_OR_MIXED,
        "odd": Prior.UNKNOWN,
        "youtube": Prior.UNKNOWN,
    }
    assert lexicon.spelling("youtube") == "YouTube"
    assert lexicon.spelling("mcdonald's") == "McDonald's"
    assert lexicon.spelling("blabla") is None
    assert lexicon.prior("london's") == Prior.CAPITALISED
