from __future__ import annotations

from pathlib import Path

import pytest

from launcher.repository import ModelPlan, render
from perf.accuracy import Clip
from starling_client import Final
from training.punctuation.live import report, with_policies

CONFIG = Path(__file__).parents[2] / "triton_models" / "punctuation" / "config.pbtxt"


def final(text: str) -> Final:
    return Final(text, seq=1, start=0.5, end=2.0, confidence=0.9, punctuated=True, language="en")


def test_the_served_configuration_takes_another_policy_and_changes_in_nothing_else() -> None:
    config = render(CONFIG, ModelPlan("punctuation", Path("/weights")))
    changed = with_policies(config, "en=asr")
    assert 'key: "POLICIES" value: { string_value: "en=asr" }' in changed
    assert changed.replace('"en=asr"', '""') == config


def test_a_configuration_without_policies_is_refused() -> None:
    with pytest.raises(ValueError, match="0 parameters POLICIES"):
        with_policies('parameters { key: "THREADS" value: { string_value: "2" } }', "en=asr")


def test_finals_are_scored_as_one_transcript(capsys: pytest.CaptureFixture[str]) -> None:
    clip = Clip(Path("clip.wav"), "en", "We went home, and it was late. Was it?")
    report(clip, [("asr", [final("We went home."), final("And it was late. Was it?")])])
    printed = capsys.readouterr().out
    assert "0.50 to  2.00  We went home." in printed
    assert "| asr | 0.667 | 1.000 | 0.000 |" in printed
    assert "asr: 2 marks right of 3 set, 3 in the transcript" in printed
