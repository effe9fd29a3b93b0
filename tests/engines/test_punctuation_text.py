from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.punctuation.text import Case, Mark, case_of, cased, join, parse


def letters(text: str) -> str:
    return "".join(c for c in text if c.isalnum())


def test_takes_marks_off_and_puts_them_back() -> None:
    text = "Well, is it? It is! Mr. Smith said so."
    units = parse(text)
    assert [unit.form for unit in units] == ["Well", "is", "it", "It", "is", "Mr", "Smith", "said", "so"]
    assert [unit.mark for unit in units] == [1, 0, 3, 0, 4, 0, 0, 0, 2]
    assert join(units) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$5.50, or .5% of 10,000", "$5.50, or .5% of 10,000"),
        ("the U.S. Navy", "the U.S. Navy"),
        ("your country—in short", "your country, in short"),
        ("-5 degrees - no", "-5 degrees, no"),
        ("R & D", "R & D"),
        ('he said "yes".', 'he said "yes."'),
        ("... to mute", "to mute"),
        ("x-ray ?", "x-ray?"),
        ("?!", ""),
        ("", ""),
    ],
)
def test_round_trip_of_what_is_not_a_mark(text: str, expected: str) -> None:
    assert join(parse(text)) == expected


def test_an_ellipsis_is_no_mark_but_is_remembered() -> None:
    (unit,) = parse("so...")
    assert unit.mark == Mark.NONE
    assert unit.elided


@pytest.mark.parametrize(
    ("form", "case"),
    [
        ("the", Case.LOWER),
        ("42", Case.LOWER),
        ("London", Case.CAPITALISED),
        ("I", Case.CAPITALISED),
        ("I'm", Case.CAPITALISED),
        ("NASA", Case.UPPER),
        ("NASA's", Case.UPPER),
        ("5G", Case.UPPER),
        ("iPhone", Case.MIXED),
        ("McDonald", Case.MIXED),
    ],
)
def test_casing_classes(form: str, case: Case) -> None:
    assert case_of(form) == case
    assert cased(form.lower(), case, form if case == Case.MIXED else None) == form


@given(st.text(max_size=60))
def test_letters_survive_any_text(text: str) -> None:
    assert letters(join(parse(text))) == letters(text)


@given(st.text(min_size=1, max_size=12), st.sampled_from(Case))
def test_casing_changes_nothing_but_casing(form: str, case: Case) -> None:
    assert cased(form, case).lower() == form.lower()


@given(st.lists(st.sampled_from(["well", "Mr.", "x-ray", "$5.50", "U.S.", "don't", "yes,", "no?", '"so"', "—", "%"])))
def test_parsing_what_was_written_changes_nothing(words: list[str]) -> None:
    once = join(parse(" ".join(words)))
    assert join(parse(once)) == once
