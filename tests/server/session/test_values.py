"""Settings, marks, arrivals: the core's small parts."""

from __future__ import annotations

import json

import pytest

from server.session import marks
from server.session.arrivals import MAX_ENTRIES, Arrivals
from server.session.marks import FinalizeMark, LanguageMark
from server.session.settings import SessionSettings


@pytest.mark.parametrize(
    ("encoding", "rate", "expected"),
    [("pcm_s16le", 16000, 32000), ("pcm_f32le", 48000, 192000), ("mulaw", 8000, 8000), ("alaw", 8000, 8000)],
)
def test_a_second_of_audio_has_so_many_bytes(encoding: str, rate: int, expected: int) -> None:
    assert SessionSettings(encoding=encoding, sample_rate=rate).bytes_per_second == expected


@pytest.mark.parametrize("mark", [LanguageMark(5, "fr"), FinalizeMark(7, "a"), FinalizeMark(7, None)])
def test_marks_survive_the_store(mark: LanguageMark | FinalizeMark) -> None:
    assert marks.from_json(json.loads(json.dumps(marks.to_json(mark)))) == mark


def test_settings_survive_the_store_and_newer_versions() -> None:
    chosen = SessionSettings("fr", "mulaw", 8000, partials=False, endpoint_silence_ms=900, session_label="x")
    values = json.loads(json.dumps(chosen.to_json()))
    assert SessionSettings.from_json({**values, "from_the_future": 1}) == chosen
    assert SessionSettings.from_json({}) == SessionSettings()
    assert chosen.with_language("de").to_json() == {**values, "language": "de"}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"encoding": "opus"}, "encoding"),
        ({"sample_rate": 7999}, "sample_rate"),
        ({"sample_rate": 48001}, "sample_rate"),
    ],
)
def test_settings_that_would_turn_speech_into_noise(values: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=f"{named} must be"):
        SessionSettings.from_json(values)


def test_arrivals() -> None:
    arrivals = Arrivals()
    assert arrivals.at(0, default=9.0) == 9.0
    arrivals.add(100, 1.0)
    arrivals.add(300, 2.0)
    assert [arrivals.at(offset, 9.0) for offset in (0, 99, 100, 299, 300)] == [1.0, 1.0, 2.0, 2.0, 9.0]


def test_arrivals_forget_the_oldest() -> None:
    arrivals = Arrivals()
    for number in range(MAX_ENTRIES + 10):
        arrivals.add(number + 1, float(number))
    assert arrivals.at(0, -1.0) == 10.0
    assert arrivals.at(MAX_ENTRIES + 9, -1.0) == MAX_ENTRIES + 9
