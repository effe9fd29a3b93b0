"""The bare form of text that partials have: lower case, no punctuation marks."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_INNER = "'\u2019-\u2010\u2011"
"""Marks that belong to a word when they stand inside it: apostrophes and hyphens."""

# Scripts written without spaces: there every character is a unit of its own.
_UNSPACED = (
    "\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Myanmar, Khmer
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana, Han
)
# A unit takes the space before it along, so that units joined give the text again.
_UNIT = re.compile(rf"\s*(?:[{_UNSPACED}]|[^\s{_UNSPACED}]+)")
_ENDS_UNSPACED = re.compile(rf"[{_UNSPACED}]\Z")
_STARTS_UNSPACED = re.compile(rf"[{_UNSPACED}]")


@lru_cache(maxsize=4096)
def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] in "PZC" or unicodedata.category(character) in ("Sm", "Sk", "So")


def bare(text: str) -> str:
    """Lower case without punctuation marks, words apart by one space.

    An apostrophe or hyphen inside a word stays; any other mark parts words, as in ``3.5`` or ``and/or``.
    """
    return unmarked(text.lower())


def says_something(text: str) -> bool:
    """Whether anything is left of the text in its bare form."""
    return not all(map(_is_mark, text))


def unmarked(text: str) -> str:
    """The text without punctuation marks, in its own casing; what `bare` says of marks holds here too."""
    last = len(text) - 1
    kept = []
    for position, character in enumerate(text):
        inner = character in _INNER and 0 < position < last
        if not _is_mark(character) or (inner and _is_word(text[position - 1]) and _is_word(text[position + 1])):
            kept.append(character)
        else:
            kept.append(" ")
    return " ".join("".join(kept).split())


def _is_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNM"


def units(text: str) -> list[str]:
    """Splits bare text into words, or into characters where the script has no spaces.

    Each unit after the first carries the space before it: ``"".join(units(text)) == text``.
    """
    return _UNIT.findall(text)


def join(before: str, after: str) -> str:
    """Two pieces of bare text as one, with a space between them unless both scripts do without."""
    if not before or not after:
        return before or after
    spaced = not (_ENDS_UNSPACED.search(before) and _STARTS_UNSPACED.match(after))
    return f"{before} {after}" if spaced else before + after
