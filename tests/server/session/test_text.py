from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from server.session.text import bare, join, says_something, units, unmarked

INNER = "'’-‐‑"

ANY_TEXT = st.text(
    st.one_of(st.characters(), st.sampled_from("aB'’-‐‑ .,3éΣİǅſ日本กั\u0301\u200b\u00a0\x1c€½Ⅷ𝐀")), max_size=40
)


@given(ANY_TEXT)
def test_a_text_says_something_where_its_bare_form_is_not_empty(text: str) -> None:
    assert says_something(text) == bool(bare(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World!", "hello world"),
        ("It's 5 o’clock.", "it's 5 o’clock"),
        ("a well-known 'quote'", "a well-known quote"),
        ("rock 'n' roll", "rock n roll"),
        ("3.5 and/or -2", "3 5 and or 2"),
        ("one--two", "one two"),
        ("¿Qué?  ¡Sí!\n", "qué sí"),
        ("«Да», — сказал он…", "да сказал он"),
        ("♪ la la ♪", "la la"),
        ("你好,世界。", "你好 世界"),
        ("a\u200bb\u0000c", "a b c"),
        ("$5 + 5%", "$5 5"),
        ("...", ""),
        ("'", ""),
        ("", ""),
    ],
)
def test_bare(text: str, expected: str) -> None:
    assert bare(text) == expected


def test_unmarked_keeps_casing() -> None:
    assert unmarked("Hello, McDonald's!") == "Hello McDonald's"


@settings(max_examples=400, deadline=None)
@given(ANY_TEXT)
@example("Σ'Σ")
@example("İ-İ")
@example("a'")
def test_bare_text_has_no_marks_and_no_capitals(text: str) -> None:
    result = bare(text)
    assert result == result.lower()
    assert bare(result) == result
    assert result == " ".join(result.split())
    for position, character in enumerate(result):
        if character in INNER:
            assert 0 < position < len(result) - 1
            assert all(unicodedata.category(result[p])[0] in "LNM" for p in (position - 1, position + 1))
        else:
            assert not unicodedata.category(character).startswith("P")


@settings(max_examples=300, deadline=None)
@given(ANY_TEXT)
def test_units_joined_are_the_text(text: str) -> None:
    whole = bare(text)
    parts = units(whole)
    assert "".join(parts) == whole
    assert all(part.strip() for part in parts)
    assert all(" " not in part[1:] for part in parts)


def test_units_of_scripts_without_spaces_are_characters() -> None:
    assert units("日本 ok ไทย") == ["日", "本", " ok", " ไ", "ท", "ย"]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("a", "b", "a b"),
        ("", "b", "b"),
        ("a", "", "a"),
        ("", "", ""),
        ("日", "本", "日本"),
        ("日", "ok", "日 ok"),
        ("ok", "日", "ok 日"),
    ],
)
def test_join(before: str, after: str, expected: str) -> None:
    assert join(before, after) == expected


@settings(max_examples=300, deadline=None)
@given(ANY_TEXT, ANY_TEXT)
def test_units_of_joined_texts_are_those_of_both(one: str, other: str) -> None:
    before, after = bare(one), bare(other)
    both = units(join(before, after))
    assert both[: len(units(before))] == units(before)
    assert [unit.strip() for unit in both[len(units(before)) :]] == [unit.strip() for unit in units(after)]
