"""What ends a row, whatever the network."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.runtime.drafts import Draft
from engines.runtime.greedy import Row, Vocabulary, is_loop

WORDS = range(3, 1000)


def row(*, stops_loops: bool, limit: int = 100) -> Row:
    return Row([1], Vocabulary(WORDS, 9, stops_loops), Draft([], WORDS, 9), limit)


def feed(taker: Row, said: list[int], sizes: list[int]) -> None:
    """Lets the decoder choose what was `said`, with drafts that are right for stretches of these sizes."""
    at = turn = 0
    while not taker.done and at < len(said):
        size = min(sizes[turn % len(sizes)], len(said) - at)
        turn += 1
        chosen = said[at : at + size]
        taker.take([0, *chosen[:-1]], chosen, [0.5] * size)
        at += size


@pytest.mark.parametrize(
    ("tokens", "looped"),
    [
        ([5] * 11, False),
        ([5] * 12, True),
        ([8, *[5, 6] * 6], True),
        ([5, 6] * 5, False),
        ([1, *[5, 6, 7, 8, 9] * 3], True),
        ([1, *[5, 6, 7, 8, 9] * 2, 5, 6, 7, 8], False),
        (list(range(10, 22)) * 3, True),
        (list(range(10, 70)) * 3, True),
        (list(range(10, 71)) * 3, False),
        (list(range(10, 40)) * 2, False),
    ],
)
def test_what_counts_as_a_loop(tokens: list[int], looped: bool) -> None:
    assert is_loop(tokens) == looped
    assert is_loop(tokens, is_hasty=True) >= looped


@pytest.mark.parametrize(
    ("tokens", "looped"),
    [
        (list(range(10, 18)) * 2, True),
        (list(range(10, 17)) * 2, False),
        (list(range(10, 40)) * 2, True),
        ([*range(10, 40), *range(10, 39)], False),
        ([5] * 11, False),
    ],
)
def test_what_counts_as_a_loop_in_haste(tokens: list[int], looped: bool) -> None:
    assert is_loop(tokens, is_hasty=True) == looped


def test_a_text_that_repeats_itself_is_proposed_once_more() -> None:
    turn = list(range(10, 24))
    taker = row(stops_loops=False)
    feed(taker, [*turn, *turn[:5]], [1])
    assert taker.proposal() == [9]
    feed(taker, turn[5:6], [1])
    assert taker.proposal() == [*turn[6:], *turn[:6]]
    # The decoder agrees with four of them: the next ones follow.
    taker.take([0, *turn[6:10], 99], [*turn[6:10], turn[10], 5], [0.5] * 6)
    assert taker.tokens == [*turn, *turn[:11]]
    assert taker.proposal() == [*turn[11:], *turn[:11]]


def test_a_proposal_is_never_longer_than_the_row_may_get() -> None:
    taker = row(stops_loops=False, limit=22)
    feed(taker, [*range(10, 18), *range(10, 16)], [1])
    assert taker.proposal() == [16, 17, 10, 11, 12, 13, 14]


def test_a_draft_is_gone_on_with_behind_an_echo() -> None:
    turn = list(range(10, 17))
    draft = [*turn, *turn, 50, 51]
    taker = Row([1], Vocabulary(WORDS, 9), Draft(draft, WORDS, 9), 100)
    feed(taker, [*turn, *turn[:6]], [1])
    assert taker.proposal()[0] == turn[6]
    taker.take([0, turn[6], turn[0]], [turn[6], 50, 5], [0.5] * 3)
    assert taker.proposal() == [51]


def test_an_echo_takes_nothing_from_a_draft_that_does_not_repeat_itself() -> None:
    turn, rest = list(range(10, 30)), list(range(50, 90))
    taker = Row([1], Vocabulary(WORDS, 9), Draft([*turn, *rest], WORDS, 9), 100)
    feed(taker, [*turn, *turn[:6]], [1])
    assert taker.proposal()[:14] == turn[6:]
    taker.take([0, *turn[6:], turn[0]], [*turn[6:], rest[6], 5], [0.5] * 16)
    assert taker.proposal() == rest[7:15]


def test_a_row_in_haste_stops_at_the_second_turn() -> None:
    turn = list(range(10, 24))
    for is_hasty, length in ((True, 28), (False, 42)):
        taker = Row([1], Vocabulary(WORDS, 9, stops_loops=True), Draft([], WORDS, 9), 100, is_hasty)
        feed(taker, turn * 4, [5])
        assert (len(taker.tokens), taker.looped) == (length, True)


@given(st.lists(st.integers(3, 6), min_size=1, max_size=60), st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_where_a_row_stops_hangs_on_no_draft(said: list[int], sizes: list[int]) -> None:
    one, other = row(stops_loops=True), row(stops_loops=True)
    feed(one, said, [1])
    feed(other, said, sizes)
    assert (one.tokens, one.looped) == (other.tokens, other.looped)
    assert len(one.tokens) == len(one.probabilities) or one.ended


def test_loops_go_on_to_the_limit_where_they_may() -> None:
    taker = row(stops_loops=False, limit=30)
    feed(taker, [5] * 60, [1])
    assert (len(taker.tokens), taker.looped, taker.done) == (30, False, True)


def test_a_token_that_is_no_word_ends_a_row() -> None:
    taker = row(stops_loops=True)
    feed(taker, [5, 6, 2], [2])
    assert (taker.tokens, taker.ended) == ([5, 6], True)
