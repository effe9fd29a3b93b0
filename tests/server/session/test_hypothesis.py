from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from server.session.hypothesis import MAX_ALIGNED, StablePrefix
from server.session.text import bare


def sure(*confidences: float) -> NDArray[np.float32]:
    return np.array(confidences, np.float32)


def prefix(hold_back: int = 0) -> StablePrefix:
    return StablePrefix(sure=0.75, sure_last=0.75, hold_back=hold_back)


def shown(one: StablePrefix) -> tuple[str, str]:
    return one.text[: one.stable], one.text[one.stable :]


def test_what_two_hypotheses_agree_on_is_stable() -> None:
    one = prefix()
    one.update("It was the")
    assert shown(one) == ("", "it was the")
    one.update("It was a best, of")
    assert shown(one) == ("it was", " a best of")
    one.update("It was the best of times")
    assert shown(one) == ("it was", " the best of times")
    one.update("It was the best of times.")
    assert shown(one) == ("it was the best of times", "")


def test_a_deviating_hypothesis_only_adds_to_what_is_stable() -> None:
    one = prefix()
    one.update("one two three")
    one.update("one two three")
    one.update("one too three four")
    assert shown(one) == ("one two three", " four")
    one.update("one")
    assert shown(one) == ("one two three", "")
    one.update("")
    assert shown(one) == ("one two three", "")


def test_what_follows_a_deviation_becomes_stable_too() -> None:
    one = prefix()
    one.update("one too")
    one.update("one too")
    one.update("one two three")
    assert shown(one) == ("one too", " three")
    one.update("won two three four")
    assert shown(one) == ("one too three", " four")
    one.update("three four")
    assert shown(one) == ("one too three four", "")


def test_what_the_model_thinks_of_stable_words_holds_nothing_back() -> None:
    one = prefix(hold_back=9)
    one.update("one too", sure(0.9, 0.9))
    one.update("one too", sure(0.9, 0.9))
    one.update("one two three four five", sure(0.1, 0.1, 0.9, 0.2, 0.9))
    assert shown(one) == ("one too", " three")


def test_the_last_words_are_held_back_without_confidences() -> None:
    one = prefix(hold_back=2)
    one.update("one two three")
    assert one.text == "one"
    one.update("one")
    assert one.text == "one"
    one.update("one two three", complete=True)
    assert one.text == "one two three"


def test_words_are_shown_up_to_the_first_unsure_one() -> None:
    one = prefix(hold_back=9)
    one.update("One, two three four", sure(0.9, 0.75, 0.7, 0.9))
    assert one.text == "one two"
    one.update("One two three", sure(0.9, 0.9, 0.9))
    assert one.text == "one two three"


def test_the_last_word_must_be_surer_than_those_before_it() -> None:
    one = StablePrefix(sure=0.5, sure_last=0.9, hold_back=9)
    one.update("One, two three", sure(0.9, 0.5, 0.8))
    assert one.text == "one two"
    one.update("one two tree four", sure(0.9, 0.9, 0.8, 0.95))
    assert one.text == "one two tree four"


def test_a_word_of_several_units_is_unsure_as_a_whole() -> None:
    one = prefix()
    one.update("about 3.5 metres", sure(0.9, 0.2, 0.9))
    assert one.text == "about"
    one.update("日本 語", sure(0.9, 0.1))
    assert one.text == "日本"


def test_confidences_that_do_not_fit_are_as_good_as_none() -> None:
    one = prefix(hold_back=1)
    one.update("one two three", sure(0.1, 0.1))
    assert one.text == "one two"


def test_stable_words_are_shown_whatever_their_confidence() -> None:
    one = prefix()
    one.update("one two", sure(0.1, 0.1))
    assert shown(one) == ("", "")
    one.update("one two", sure(0.1, 0.1))
    assert shown(one) == ("one two", "")


def test_windows_behind_a_commit_add_to_it() -> None:
    one = prefix()
    one.update("one two three")
    one.commit("One two.")
    assert shown(one) == ("one two", "")
    one.update("three four", whole=False)
    assert shown(one) == ("one two", " three four")
    one.update("three five", whole=False)
    assert shown(one) == ("one two three", " five")
    one.commit("Three five.", whole=False)
    assert shown(one) == ("one two three five", "")
    one.update("", whole=False)
    assert shown(one) == ("one two three five", "")


def test_commit_of_less_than_is_stable_commits_only_that() -> None:
    one = prefix()
    one.update("one two three four")
    one.update("one two three four")
    one.commit("one two")
    assert shown(one) == ("one two three four", "")
    one.update("three four five", whole=False)
    assert shown(one) == ("one two three four", " five")


def test_commit_keeps_the_space_of_scripts_with_and_without() -> None:
    one = prefix()
    one.commit("日本")
    one.update("語", whole=False)
    assert one.text == "日本語"
    one.commit("語 ok", whole=False)
    one.update("日", whole=False)
    assert one.text == "日本語 ok 日"


def test_only_the_end_of_a_long_text_is_aligned() -> None:
    long = [f"word{i}" for i in range(3 * MAX_ALIGNED)]
    one = prefix()
    one.update(" ".join(long))
    one.update(" ".join(long))
    one.update(" ".join(["other", *long[1:], "new"]))
    assert shown(one) == (" ".join(long), " new")


Step = tuple[str, str, bool, bool, list[float]]

_words = st.lists(st.sampled_from(("a", "b", "c", "日", "本", "d-e", "F", "3.5")), max_size=6).map(" ".join)
_updates: st.SearchStrategy[Step] = st.tuples(
    st.just("update"), _words, st.booleans(), st.booleans(), st.lists(st.sampled_from((0.1, 0.9)), max_size=6)
)
_commits: st.SearchStrategy[Step] = st.tuples(st.just("commit"), _words, st.booleans(), st.just(False), st.just([]))


@settings(max_examples=150, deadline=None)
@given(st.lists(_updates | _commits, max_size=8), st.integers(0, 3))
def test_the_stable_part_only_grows(steps: list[Step], hold_back: int) -> None:
    one, stable = prefix(hold_back), ""
    for kind, text, whole, complete, words in steps:
        if kind == "commit":
            one.commit(text, whole=whole)
        else:
            one.update(text, sure(*words) if words else None, whole=whole, complete=complete)
        assert one.stable >= len(stable)
        assert one.text.startswith(stable)
        assert one.stable <= len(one.text)
        assert one.text == bare(one.text)
        stable = one.text[: one.stable]


@pytest.mark.parametrize("complete", [True, False])
def test_the_same_hypothesis_twice_is_shown_as_it_is(complete: bool) -> None:
    one = prefix()
    for _ in range(2):
        one.update("Well-known o'clock, 3.5!", complete=complete)
    assert shown(one) == ("well-known o'clock 3 5", "")
