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


def test_after_a_mismatch_proposes_little_and_more_again_where_that_is_right() -> None:
    draft = _draft(*range(11, 61))
    assert draft.proposal(100) == list(range(11, 61))
    draft.advance(3, [11, 12, 13, 99])
    assert draft.proposal(100) == list(range(15, 23))
    draft.advance(8, list(range(15, 24)))
    assert draft.proposal(100) == list(range(24, 40))


def test_without_a_draft_proposes_the_guess() -> None:
    assert _draft().proposal(5) == [GUESS]


def test_leaves_out_marks_and_ids_that_do_not_exist() -> None:
    assert _draft(-5, 0, 1, 2, 11, 1000, 99999).proposal(10) == [11]


def test_after_a_replaced_token_proposes_the_rest() -> None:
    draft = _draft(11, 12, 13, 14)
    draft.advance(1, [11, 99])
    assert draft.proposal(10) == [13, 14]


def test_after_a_dropped_token_goes_on_behind_the_one_that_was_chosen() -> None:
    draft = _draft(11, 12, 13, 14)
    draft.advance(1, [11, 13])
    assert draft.proposal(10) == [14]


def test_finds_its_way_back_after_an_inserted_token() -> None:
    draft = _draft(11, 12, 13, 14)
    draft.advance(1, [11, 99])
    draft.advance(0, [11, 99, 12])
    assert draft.proposal(10) == [13, 14]


def test_finds_its_way_back_after_many_inserted_tokens() -> None:
    draft = _draft(*range(11, 31))
    decoded = [11, *range(90, 98)]
    draft.advance(1, decoded[:2])
    for count in range(3, len(decoded) + 1):
        draft.advance(0, decoded[:count])
    draft.advance(0, [*decoded, 12])
    assert draft.proposal(2) == [13, 14]


def test_a_token_far_away_that_is_there_twice_is_known_by_the_one_before_it() -> None:
    draft = _draft(11, 12, *range(40, 60), 12, 13, 14)
    draft.advance(20, [70])
    draft.advance(0, [70, 12])
    assert draft.proposal(3) == [13, 14]
    draft.advance(0, [11, 12])
    assert draft.proposal(1) == [40]


def test_of_two_places_it_takes_the_one_that_more_of_what_was_decoded_fits() -> None:
    draft = _draft(50, 12, 13, 60, 11, 12, 13, 70)
    draft.advance(0, [11])
    draft.advance(0, [11, 99])
    draft.advance(0, [11, 99, 12])
    draft.advance(0, [11, 12, 13])
    assert draft.proposal(10) == [70]


@given(
    st.lists(st.integers(-10, 1010), max_size=20),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 999)), max_size=30),
)
def test_never_runs_out_of_its_tokens(tokens: list[int], moves: list[tuple[int, int]]) -> None:
    draft = Draft(tokens, range(3, 1000), GUESS)
    decoded: list[int] = []
    for confirmed, correction in moves:
        accepted = draft.proposal(confirmed)
        decoded += [*accepted, correction]
        draft.advance(len(accepted), decoded)
        assert draft.proposal(100)
