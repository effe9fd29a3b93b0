"""The shippable clips are English, which Whisper hears like any other language."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.base import EngineError, Hypothesis, Window
from engines.runtime.greedy import Row
from engines.whisper.checks import Judgement, judge
from engines.whisper.decoders import Decoded
from engines.whisper.engine import FULL_FRAMES, MAX_TRIES, WhisperEngine, word_confidences
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


def test_drafts_change_nothing(
    whisper: WhisperEngine, cut_windows: Callable[..., list[NDArray[np.int16]]], clips: list[Clip]
) -> None:
    """Garbage, another window's tokens, and the text of the same speech a third of a second before."""
    garbage = np.array([-1, 5, 10**9, 50257], np.int64).astype(np.int32)
    windows = cut_windows(12, seed=3, longest=6.0)
    plain = decode(whisper, *[Window(audio, "en") for audio in windows])
    earlier = decode(whisper, *[Window(audio[: max(2000, len(audio) - 5120)], "en") for audio in windows])
    for drafts in ([garbage] * 12, [result.tokens for result in plain[1:] + plain[:1]], [r.tokens for r in earlier]):
        drafted = decode(whisper, *[Window(a, "en", d) for a, d in zip(windows, drafts, strict=True)])
        for one, other in zip(plain, drafted, strict=True):
            assert (one.text, one.confidence, one.stats["tries"]) == (
                other.text,
                other.confidence,
                other.stats["tries"],
            )
            assert np.array_equal(one.tokens, other.tokens)


def test_a_draft_saves_passes(whisper: WhisperEngine, clips: list[Clip]) -> None:
    (first,) = decode(whisper, Window(clips[2].audio, "en"))
    (again,) = decode(whisper, Window(clips[2].audio, "en", first.tokens))
    assert again.text == first.text
    assert again.stats["accepted"] >= len(first.tokens) - 1
    assert again.stats["decoder_passes"] <= 2 < first.stats["decoder_passes"]


def test_words_have_confidences(whisper: WhisperEngine, clips: list[Clip]) -> None:
    (result,) = decode(whisper, Window(clips[2].audio, "en"))
    assert len(result.words) == len(result.text.split())
    assert ((result.words > 0) & (result.words <= 1)).all()


@pytest.mark.parametrize(
    ("pieces", "probabilities", "wanted"),
    [
        ([" And", " so", ",", " my"], [0.9, 0.8, 0.1, 0.7], [0.9, 0.8, 0.7]),
        ([" fell", "ow", "-", "am"], [0.9, 0.5, 0.1, 0.6], [0.5]),
        ([" ¿", "qu", "é", "?"], [0.2, 0.9, 0.8, 0.3], [0.8]),
        ([" ", "да", " н\ufffd", "\ufffd"], [0.9, 0.8, 0.7, 0.6], [0.8, 0.6]),
        ([" -", " yes"], [0.1, 0.9], [1.0, 0.9]),
        ([" no", " probabilities"], [], []),
    ],
)
def test_a_word_is_as_sure_as_its_least_sure_piece(
    pieces: list[str], probabilities: list[float], wanted: list[float]
) -> None:
    assert word_confidences(pieces, probabilities) == pytest.approx(np.array(wanted, np.float32))


def test_without_the_graphs_ctranslate2_decodes(
    whisper_dir: Path, whisper: WhisperEngine, clips: list[Clip], tmp_path: Path
) -> None:
    for name in ("model.bin", "config.json", "vocabulary.json", "tokenizer.json"):
        (tmp_path / name).symlink_to(whisper_dir / name)
    with closing(WhisperEngine(tmp_path, threads=2)) as plain:
        windows = [Window(clip, "en") for clip in (NOISE, NOISE[:16000])]
        assert [result.text for result in decode(plain, *windows)] == ["", ""]
        spoken = Window(clips[2].audio, "en")
        (drafted,) = decode(whisper, spoken)
        (result,) = decode(plain, spoken)
    assert result.text.split()[:3] == drafted.text.split()[:3]
    assert len(result.words) == 0


@pytest.mark.parametrize("failures", [1, 2])
def test_a_loop_is_decoded_again_with_more_context(
    whisper: WhisperEngine, clips: list[Clip], monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """The first texts are taken for loops; the last try has the full context."""
    calls: list[str] = []
    contexts: list[int] = []
    attempt = WhisperEngine._attempt

    def first_fail(text: str, seconds: float, mean_logprob: float, no_speech: float) -> Judgement:
        calls.append(text)
        return judge("la " * 100 if len(calls) <= failures else text, seconds, mean_logprob, no_speech)

    def noted(engine: WhisperEngine, windows: list[Window], frames: int) -> object:
        contexts.append(frames)
        return attempt(engine, windows, frames)

    monkeypatch.setattr("engines.whisper.engine.judge", first_fail)
    monkeypatch.setattr(WhisperEngine, "_attempt", noted)
    (result,) = decode(whisper, Window(clips[0].audio[:80000], "en"))
    assert result.stats["tries"] == failures + 1
    assert result.text == calls[-1] != ""
    assert contexts == sorted(set(contexts))
    assert (contexts[-1] == FULL_FRAMES) == (failures == MAX_TRIES - 1)


def test_a_partial_is_tried_once_and_keeps_the_first_turn_of_a_loop(
    whisper: WhisperEngine, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    decode_ = type(whisper._decoder).decode

    def looping(decoder: object, *given: object) -> list[Decoded]:
        return [
            replace(found, tokens=[*found.tokens, *found.tokens[-4:] * 3], looped=True)
            for found in decode_(decoder, *given)  # type: ignore[arg-type]
        ]

    (plain,) = decode(whisper, Window(clips[2].audio, "en"))
    monkeypatch.setattr(type(whisper._decoder), "decode", looping)
    (partial,) = decode(whisper, Window(clips[2].audio, "en", is_partial=True))
    assert (partial.text, partial.stats["tries"]) == (plain.text, 1)
    (final,) = decode(whisper, Window(clips[2].audio, "en"))
    assert (final.text, final.stats["tries"]) == ("", MAX_TRIES)


def test_partials_alone_are_decoded_in_haste(
    whisper: WhisperEngine, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    haste: set[bool] = set()
    stop = Row._stop_loop

    def noted(row: Row, before: int) -> None:
        haste.add(row.is_hasty)
        stop(row, before)

    monkeypatch.setattr(Row, "_stop_loop", noted)
    for is_partial in (True, False):
        haste.clear()
        decode(whisper, Window(clips[2].audio[:32000], "en", is_partial=is_partial))
        assert haste == {is_partial}


def test_a_loop_in_every_try_gives_no_text(
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
