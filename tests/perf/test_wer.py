from __future__ import annotations

import pytest

from perf.numbers_in_words import in_words
from perf.wer import WordErrors, normalize, total, word_errors


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        ("en", "It's 10 METERS — an ill-disposed “man”…", "its ten meters an ill disposed man"),
        ("en", "press 1, then 21; the 1st of 1,250 (50%)", "press one then twenty one the one of one thousand "
         "two hundred fifty fifty percent"),
        ("en", "www.asterisk.org at 3.5", "www asterisk org at three five"),
        ("en", "call 0800 and 12345678", "call zero eight zero zero and one two three four five six seven eight"),
        ("en-US", "naïve café", "naive cafe"),
        ("es", "El 21 de año, ¿cómo? 100", "el veintiuno de ano como cien"),
        ("fr", "L’été, c'est 80 œufs", "l ete c est quatre vingts œufs"),
        ("fr", "vingt-et-un", "vingt et un"),
        ("ru", "Ещё 3 йода, 50%!", "еще три йода пятьдесят процентов"),
        ("de", "Über 3", "uber 3"),
        ("en", "  ...  ", ""),
    ],
)  # fmt: skip
def test_one_way_of_writing(language: str, text: str, words: str) -> None:
    assert " ".join(normalize(text, language)) == words


@pytest.mark.parametrize(
    ("language", "number", "words"),
    [
        ("en", 0, "zero"),
        ("en", 342, "three hundred forty two"),
        ("en", 999_999, "nine hundred ninety nine thousand nine hundred ninety nine"),
        ("es", 16, "dieciséis"),
        ("es", 45, "cuarenta y cinco"),
        ("es", 101, "ciento uno"),
        ("es", 1000, "mil"),
        ("es", 21_500, "veintiún mil quinientos"),
        ("es", 31_000, "treinta y un mil"),
        ("fr", 21, "vingt et un"),
        ("fr", 71, "soixante et onze"),
        ("fr", 80, "quatre-vingts"),
        ("fr", 81, "quatre-vingt-un"),
        ("fr", 99, "quatre-vingt-dix-neuf"),
        ("fr", 200, "deux cents"),
        ("fr", 201, "deux cent un"),
        ("fr", 80_000, "quatre-vingt mille"),
        ("fr", 3000, "trois mille"),
        ("ru", 21, "двадцать один"),
        ("ru", 1000, "тысяча"),
        ("ru", 2345, "две тысячи триста сорок пять"),
        ("ru", 21_000, "двадцать одна тысяча"),
        ("ru", 12_000, "двенадцать тысяч"),
        ("de", 7, "7"),
        ("en", 1_000_000, "1000000"),
    ],
)
def test_numbers_as_they_are_said(language: str, number: int, words: str) -> None:
    assert in_words(number, language) == words


@pytest.mark.parametrize("language", ["en", "es", "fr", "ru"])
def test_no_two_numbers_are_said_alike(language: str) -> None:
    spoken = [in_words(number, language) for number in [*range(2100), *range(2100, 1_000_000, 997)]]
    assert len(set(spoken)) == len(spoken)


def test_errors_are_counted_by_kind_and_add_up() -> None:
    first = word_errors("the quick brown fox", "The brown fox, jumped?")
    assert first == WordErrors(words=4, deletions=1, insertions=1)
    second = word_errors("one two", "one three")
    assert second == WordErrors(words=2, substitutions=1)
    assert total([first, second]).rate == pytest.approx(3 / 6)


def test_empty_sides() -> None:
    assert word_errors("", "made up") == WordErrors(insertions=2)
    assert word_errors("", "made up").rate == 2
    assert word_errors("said it", "") == WordErrors(words=2, deletions=2)
    assert word_errors("", "").rate == 0
