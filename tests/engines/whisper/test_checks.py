from __future__ import annotations

import pytest

from engines.whisper.checks import compression_ratio, judge

PROSE = "Para bloquear o desbloquear la conferencia. Cuando una conferencia está bloqueada, solo los administradores."
LOOP = "it was the age of wisdom, " * 8


def test_prose_that_the_model_believes_is_good() -> None:
    judgement = judge(PROSE, 8.0, -0.2, 0.1)
    assert not judgement.made_up
    assert not judgement.retry


def test_a_loop_is_made_up_and_tried_again() -> None:
    judgement = judge(LOOP, 12.0, -0.2, 0.1)
    assert judgement.made_up
    assert judgement.retry


def test_more_text_than_anyone_can_say_is_a_loop() -> None:
    assert judge(PROSE, 1.0, -0.2, 0.1).looped
    assert not judge(PROSE, 4.0, -0.2, 0.1).looped


@pytest.mark.parametrize(
    ("logprob", "no_speech", "made_up"), [(-2.0, 0.9, True), (-2.0, 0.3, False), (-0.5, 0.9, False), (-1.2, 0.9, False)]
)
def test_silence_needs_both_signs(logprob: float, no_speech: float, made_up: bool) -> None:
    assert judge("Gracias.", 3.0, logprob, no_speech).made_up == made_up


def test_a_caption_of_a_sound_is_no_speech() -> None:
    assert judge("ТРЕВОЖНАЯ МУЗЫКА", 2.0, -0.5, 0.8).made_up
    assert not judge("OTAN", 2.0, -0.3, 0.1).made_up


def test_low_probability_is_tried_again_only_where_there_is_enough_to_hear() -> None:
    assert judge(PROSE, 6.0, -1.2, 0.2).retry
    assert not judge("de", 0.7, -1.2, 0.2).retry


def test_no_text_has_no_compression() -> None:
    assert compression_ratio("") == 0.0
    assert not judge("", 3.0, -0.1, 0.1).looped
