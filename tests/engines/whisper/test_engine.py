"""The shippable clips are English, which Whisper hears like any other language."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.base import EngineError, Hypothesis, Window
from engines.whisper.checks import Judgement, judge
from engines.whisper.engine import FULL_FRAMES, WhisperEngine
from tests.engines.conftest import Clip

NOISE = np.random.default_rng(0).normal(0, 2000, 32000).astype(np.int16)


def decode(engine: WhisperEngine, *windows: Window) -> list[Hypothesis]:
    results = engine.transcribe(windows)
    assert all(isinstance(result, Hypothesis) for result in results), results
    return [result for result in results if isinstance(result, Hypothesis)]


def test_hears_the_words(
    whisper: WhisperEngine, clips: list[Clip], word_errors: Callable[[str, str], tuple[int, int]]
) -> None:
    short = [clip for clip in clips if len(clip.audio) < 16000 * 20]
    results = decode(whisper, *[Window(clip.audio, "en") for clip in short])
    counts = [word_errors(clip.transcript, result.text) for clip, result in zip(short, results, strict=True)]
    assert sum(wrong for wrong, _ in counts) / sum(said for _, said in counts) < 0.12
    assert all(0.3 < result.confidence <= 1 and result.stats["tries"] == 1 for result in results)


def test_tokens_are_those_of_the_text(whisper: WhisperEngine, whisper_dir: Path, clips: list[Clip]) -> None:
    from tokenizers import Tokenizer

    (result,) = decode(whisper, Window(clips[2].audio, "en"))
    tokenizer = Tokenizer.from_file(str(whisper_dir / "tokenizer.json"))
    assert result.tokens.dtype == np.int32
    assert tokenizer.decode(result.tokens.tolist()).strip() == result.text


def test_detects_the_language(whisper: WhisperEngine, clips: list[Clip]) -> None:
    detected, given = decode(whisper, Window(clips[0].audio, "auto"), Window(clips[0].audio, "en-US"))
    assert detected.language == given.language == "en"
    assert detected.text == given.text


def test_decodes_in_the_language_it_is_told(whisper: WhisperEngine, clips: list[Clip]) -> None:
    first, second = decode(whisper, Window(clips[1].audio, "es"), Window(clips[1].audio, "pt-BR"))
    assert (first.language, second.language) == ("es", "pt")


@pytest.mark.parametrize("neighbours", [1, 5, 15])
def test_neighbours_do_not_matter(
    whisper: WhisperEngine, cut_windows: Callable[..., list[NDArray[np.int16]]], neighbours: int
) -> None:
    audio, *others = cut_windows(neighbours + 1, seed=neighbours, longest=4.0)
    (alone,) = decode(whisper, Window(audio, "en"))
    languages = ["en", "es", "auto"]
    batch = [Window(other, languages[index % 3]) for index, other in enumerate(others)]
    for place in (0, neighbours):
        together = decode(whisper, *batch[:place], Window(audio, "en"), *batch[place:])[place]
        assert together.text == alone.text
        assert together.confidence == pytest.approx(alone.confidence, rel=1e-3)


def test_drafts_change_nothing(whisper: WhisperEngine, clips: list[Clip]) -> None:
    draft = np.array([-1, 5, 10**9, 50257], np.int64).astype(np.int32)
    plain, drafted = decode(whisper, Window(clips[1].audio, "en"), Window(clips[1].audio, "en", draft))
    assert plain.text == drafted.text


def test_a_loop_is_decoded_again_with_the_full_context(
    whisper: WhisperEngine, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every first text is taken for a loop; the second try's text is what a full context gives."""
    (wanted,) = whisper._attempt([Window(clips[0].audio, "en")], FULL_FRAMES)
    calls: list[str] = []

    def first_fails(text: str, seconds: float, mean_logprob: float, no_speech: float) -> Judgement:
        calls.append(text)
        looped = len(calls) == 1
        return judge("la " * 100 if looped else text, seconds, mean_logprob, no_speech)

    monkeypatch.setattr("engines.whisper.engine.judge", first_fails)
    (result,) = decode(whisper, Window(clips[0].audio, "en"))
    assert result.stats["tries"] == 2
    assert result.text == wanted.text


def test_a_loop_in_both_tries_gives_no_text(
    whisper: WhisperEngine, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.whisper.engine.judge", lambda _text, *rest: judge("la " * 100, *rest))
    (result,) = decode(whisper, Window(clips[1].audio, "en"))
    assert (result.text, result.confidence, result.stats["made_up"]) == ("", 0.0, 1.0)


@pytest.mark.parametrize(
    "audio",
    [
        pytest.param(np.zeros(32000, np.int16), id="zeros"),
        pytest.param(np.full(32000, 3000, np.int16), id="constant offset"),
        pytest.param(np.random.default_rng(1).normal(0, 10, 32000).astype(np.int16), id="faint noise"),
    ],
)
@pytest.mark.parametrize("language", ["es", "auto"])
def test_silence_has_no_text(whisper: WhisperEngine, audio: NDArray[np.int16], language: str) -> None:
    (result,) = decode(whisper, Window(audio, language))
    assert (result.text, result.confidence, result.language) == ("", 0.0, language)


@pytest.mark.parametrize("language", ["es", "fr", "ru"])
def test_loud_noise_has_no_text(whisper: WhisperEngine, language: str) -> None:
    (result,) = decode(whisper, Window(NOISE, language))
    assert result.text == ""


@pytest.mark.parametrize(
    ("window", "message"),
    [
        pytest.param(Window(np.empty(0, np.int16), "es"), "too short: send at least", id="empty"),
        pytest.param(Window(np.tile(NOISE, 16), "es"), "too long: send at most", id="long"),
        pytest.param(Window(NOISE, "klingon"), "'klingon' is not known: send a code such as es", id="language"),
        pytest.param(Window(NOISE.astype(np.float32), "es"), "int16", id="float"),
    ],
)
def test_a_bad_window_fails_alone_and_says_why(
    whisper: WhisperEngine, clips: list[Clip], window: Window, message: str
) -> None:
    good = Window(clips[1].audio, "en")
    before, bad, after = whisper.transcribe([good, window, good])
    assert isinstance(bad, EngineError)
    assert message in str(bad)
    assert isinstance(before, Hypothesis)
    assert isinstance(after, Hypothesis)
    assert before.text == after.text != ""


def test_missing_files_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make setup"):
        WhisperEngine(tmp_path)
