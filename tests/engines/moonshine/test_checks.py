from __future__ import annotations

import pytest

from engines.checks import without_loop
from engines.moonshine.checks import made_up


@pytest.mark.parametrize(
    ("tokens", "kept"),
    [
        pytest.param([5, 6, 7, 8, 9, 7, 8, 9, 7, 8], [5, 6, 7, 8, 9], id="a phrase and a half"),
        pytest.param([5, 8, 8, 8, 8], [5, 8], id="one token"),
        pytest.param([5, 6, 7, 6, 7, 6, 7], [5, 6, 7], id="two tokens"),
        pytest.param([5, 8, 8], [5, 8, 8], id="said twice"),
        pytest.param([5, 6, 7, 8], [5, 6, 7, 8], id="none"),
        pytest.param([8, 8, 8, 8, 5], [8, 8, 8, 8, 5], id="not at the end"),
        pytest.param([8, 8, 8, 8], [8], id="nothing else"),
        pytest.param([], [], id="empty"),
    ],
)
def test_a_loop_at_the_end_keeps_its_first_turn(tokens: list[int], kept: list[int]) -> None:
    assert list(without_loop(tokens)) == kept


@pytest.mark.parametrize("text", ["You", "", "\N{EIGHTH NOTE}\N{EIGHTH NOTE}", "...", "-"])
def test_what_silence_and_hum_give_is_made_up(text: str) -> None:
    assert made_up(text, [7], 2.0, 0.9, stopped=False)


@pytest.mark.parametrize("text", ["You.", "You know", "A", "2"])
def test_short_speech_is_not(text: str) -> None:
    assert not made_up(text, [7, 8], 0.5, 0.4, stopped=False)


def test_little_variety_up_to_the_limit_is_made_up() -> None:
    tokens = [7, 8, 9, 10] * 5
    assert made_up("use the videos button", tokens, 3.0, 0.6, stopped=True)
    assert not made_up("use the videos button", tokens, 3.0, 0.6, stopped=False)
    assert not made_up("words that differ", list(range(20)), 3.0, 0.6, stopped=True)


@pytest.mark.parametrize(
    ("seconds", "confidence", "expected"), [(0.6, 0.1, False), (1.0, 0.1, True), (2.0, 0.24, True)]
)
def test_what_the_model_does_not_believe_is_made_up(seconds: float, confidence: float, expected: bool) -> None:
    assert made_up("We will be able", [7, 8, 9], seconds, confidence, stopped=False) == expected
