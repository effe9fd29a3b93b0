from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.base import EngineError
from engines.punctuation import Policy, Punctuator, Request
from engines.punctuation.engine import MAX_CHARACTERS

WEIGHTS = Path(__file__).parents[2] / "triton_models" / "punctuation" / "1"

WORDS = (
    "so we went to the market and bought some apples then john asked where is mary but nobody knew mr smith of nasa "
    "said that it's 5 o'clock in new york i'm sure what do you think don't worry x-ray $5.50 3.5 café"
).split()


@pytest.fixture(scope="module")
def punctuators() -> dict[Policy, Punctuator]:
    return {policy: Punctuator(WEIGHTS, policies={"en": policy}) for policy in Policy}


@pytest.fixture(scope="module")
def punctuate(punctuators: dict[Policy, Punctuator]) -> Callable[..., str]:
    def run(text: str, context: str = "", policy: Policy = Policy.BOTH, language: str = "en") -> str:
        (result,) = punctuators[policy].punctuate([Request(text, context, language)])
        assert isinstance(result, str)
        return result

    return run


def letters(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())


def random_text(rng: random.Random, most: int = 40) -> str:
    words = rng.choices(WORDS, k=rng.randint(1, most))
    return " ".join(word + rng.choice(("", "", "", ",", ".", "?")) for word in words)


def test_bare_text_gets_sentences_questions_and_names(punctuate: Callable[..., str]) -> None:
    text = "hello how are you doing today i went to london with john last week"
    result = punctuate(text, policy=Policy.MODEL)
    assert result.startswith("Hello")
    assert "? I went to London with John last week." in result


def test_a_segment_that_goes_on_starts_in_lower_case(punctuate: Callable[..., str]) -> None:
    result = punctuate("For him to have a rest after the journey.", context="I thought that it was time")
    assert result.startswith("for him")


def test_a_segment_after_a_closed_sentence_starts_with_a_capital(punctuate: Callable[..., str]) -> None:
    assert punctuate("it was late.", context="We went home.").startswith("It was late")
    assert punctuate("it was late.").startswith("It was late")


def test_a_segment_cut_in_mid_sentence_gets_no_full_stop(punctuate: Callable[..., str]) -> None:
    assert punctuate("I would like to talk to you about the.")[-1] == "e"


def test_the_spelling_of_the_asr_model_is_kept_where_it_is_unusual(punctuate: Callable[..., str]) -> None:
    assert "PBX" in punctuate("You have installed the open source PBX.")


def test_the_first_person_is_a_capital_and_other_letters_are_not(punctuate: Callable[..., str]) -> None:
    result = punctuate("so i'm late, i.e. too late.")
    assert "I'm late" in result
    assert "i.e." in result


@pytest.mark.parametrize("policy", list(Policy))
@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_an_empty_text_stays_empty(punctuate: Callable[..., str], policy: Policy, text: str) -> None:
    assert punctuate(text, context="And so", policy=policy) == ""


def test_a_language_without_a_policy_keeps_its_text(punctuate: Callable[..., str]) -> None:
    assert punctuate("¿qué tal? bien ", language="es") == "¿qué tal? bien"


@pytest.mark.parametrize("policy", [Policy.MODEL, Policy.BOTH])
@given(text=st.text(max_size=80), context=st.text(max_size=40))
@settings(max_examples=60, deadline=None)
def test_no_text_loses_or_changes_a_letter(
    punctuators: dict[Policy, Punctuator], policy: Policy, text: str, context: str
) -> None:
    (result,) = punctuators[policy].punctuate([Request(text, context)])
    assert isinstance(result, str)
    assert letters(result) == letters(text)


@pytest.mark.parametrize("policy", [Policy.MODEL, Policy.BOTH])
def test_neighbours_do_not_change_a_text(punctuators: dict[Policy, Punctuator], policy: Policy) -> None:
    rng = random.Random(4)
    requests = [Request(random_text(rng), random_text(rng, 12) if rng.random() < 0.7 else "") for _ in range(120)]
    alone = [punctuators[policy].punctuate([request])[0] for request in requests]
    assert punctuators[policy].punctuate(requests) == alone
    order = rng.sample(range(len(requests)), len(requests))
    assert punctuators[policy].punctuate([requests[i] for i in order]) == [alone[i] for i in order]


def test_a_long_text_is_done_in_chunks_without_losing_a_word(punctuate: Callable[..., str]) -> None:
    text = " ".join(random_text(random.Random(seed)) for seed in range(40))
    result = punctuate(text, policy=Policy.MODEL)
    assert letters(result) == letters(text)
    assert result.count(". ") > 5


def test_a_word_of_any_length_passes(punctuate: Callable[..., str]) -> None:
    text = "x" * 3000 + " " + "a-" * 2000 + "b " + "'" * 500
    assert letters(punctuate(text)) == letters(text)


def test_a_text_that_is_too_long_costs_its_neighbours_nothing(punctuators: dict[Policy, Punctuator]) -> None:
    long = Request("word " * MAX_CHARACTERS)
    results = punctuators[Policy.BOTH].punctuate([Request("Yes."), long, Request("No.")])
    assert [letters(str(results[i])) for i in (0, 2)] == ["yes", "no"]
    assert isinstance(results[1], EngineError)
    assert "send at most" in str(results[1])


def test_a_folder_without_the_model_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"punctuation\.onnx"):
        Punctuator(tmp_path)
