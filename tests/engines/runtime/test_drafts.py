from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engines.runtime.drafts import Draft

GUESS = 9


def _draft(*tokens: int) -> Draft:
    return Draft(tokens, range(3, 1000), GUESS)


def test_proposes_all_that_is_left() -> None:
    assert _draft(11, 12, 13).proposal(10) == [11, 12, 13]


def test_keeps_to_the_limit() -> None:
    assert _draft(11, 12, 13).proposal(2) == [11, 12]
    assert _draft(11, 12, 13).proposal(0) == []
    assert _draft(11, 12, 13).proposal(-1) == []


def test_without_a_draft_proposes_the_guess() -> None:
    assert _draft().proposal(5) == [GUESS]


def test_leaves_out_marks_and_ids_that_do_not_exist() -> None:
    assert _draft(-5, 0, 1, 2, 11, 1000, 99999).proposal(10) == [11]


def test_after_a_replaced_token_proposes_the_rest() -> None:
    draft = _draft(11, 12, 13, 14)
    draft.advance(1, 99)
    assert draft.proposal(10) == [13, 14]


def test_after_a_dropped_token_goes_on_behind_the_one_that_was_chosen() -> None:
    draft = _draft(11, 12, 13, 14)
    draft.advance(1, 13)
    assert draft.proposal(10) == [14]


def test_finds_its_way_back_after_an_inserted_token() -> None:
    draft = _draft(11, 12, 13, 14)
    draft.advance(1, 99)
    draft.advance(0, 12)
    assert draft.proposal(10) == [13, 14]


@given(
    st.lists(st.integers(-10, 1010), max_size=20),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 999)), max_size=30),
)
def test_never_runs_out_of_its_tokens(tokens: list[int], moves: list[tuple[int, int]]) -> None:
    draft = Draft(tokens, range(3, 1000), GUESS)
    for confirmed, correction in moves:
        draft.advance(min(confirmed, len(draft.proposal(100))), correction)
        assert draft.proposal(100)
