"""The confidence in each word: one value a word, whatever pieces it is made of."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engines.moonshine.tokenizer import Tokenizer

PIECES = ["\u2581he", "llo", ",", "\u2581", "wor", "ld", "\u2581-", "\u2581it", "'", "s", "."]
FIRST = 259


def tokenizer() -> Tokenizer:
    """Control pieces and bytes stand where the real ones do: before the others."""
    control = [b"<unk>", b"<s>", b"</s>"]
    return Tokenizer([*control, *(bytes([byte]) for byte in range(256)), *(piece.encode() for piece in PIECES)])


def test_a_word_is_as_sure_as_its_least_sure_piece_and_marks_do_not_count() -> None:
    ids = [FIRST + PIECES.index(piece) for piece in ("\u2581he", "llo", ",", "\u2581", "wor", "ld", ".")]
    words = tokenizer().word_confidences(ids, [0.9, 0.5, 0.1, 0.2, 0.8, 0.7, 0.1])
    assert tokenizer().decode(ids) == "hello, world."
    np.testing.assert_allclose(words, [0.5, 0.7], atol=1e-6)


@given(st.lists(st.integers(FIRST, FIRST + len(PIECES) - 1), max_size=12))
def test_there_is_one_confidence_for_each_word(ids: list[int]) -> None:
    words = tokenizer().word_confidences(ids, [0.5] * len(ids))
    assert len(words) == len(tokenizer().decode(ids).split())
    assert ((words == 1) | (words == 0.5)).all()
