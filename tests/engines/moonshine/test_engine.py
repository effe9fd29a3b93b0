from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.base import EngineError, Hypothesis, Window
from engines.moonshine.engine import MoonshineEngine
from engines.runtime.integers import exact_int8
from tests.engines.conftest import Clip

SPEECH = np.random.default_rng(0).normal(0, 2000, 16000).astype(np.int16)


def decode(engine: MoonshineEngine, *windows: Window) -> list[Hypothesis | EngineError]:
    return engine.transcribe(windows)


def test_hears_the_words(
    moonshine: MoonshineEngine, clips: list[Clip], word_errors: Callable[[str, str], tuple[int, int]]
) -> None:
    short = [clip for clip in clips if len(clip.audio) < 16000 * 20]
    errors = words = 0
    for clip, result in zip(short, decode(moonshine, *[Window(clip.audio, "en") for clip in short]), strict=True):
        assert isinstance(result, Hypothesis)
        assert result.language == "en"
        assert 0.5 < result.confidence <= 1
        wrong, said = word_errors(clip.transcript, result.text)
        errors, words = errors + wrong, words + said
    assert errors / words < 0.06


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_other_precisions_hear_the_same(moonshine_dir: Path, clips: list[Clip], precision: str) -> None:
    engine = MoonshineEngine(moonshine_dir, precision=precision)
    (result,) = decode(engine, Window(clips[2].audio, "en"))
    assert isinstance(result, Hypothesis)
    assert result.text == clips[2].transcript


def test_an_empty_batch_is_fine(moonshine: MoonshineEngine) -> None:
    assert decode(moonshine) == []


@pytest.mark.parametrize(
    ("window", "message"),
    [
        pytest.param(Window(np.empty(0, np.int16), "en"), "too short: send at least", id="empty"),
        pytest.param(Window(SPEECH[:1599], "en"), "too short: send at least", id="short"),
        pytest.param(Window(np.tile(SPEECH, 31), "en"), "too long: send at most", id="long"),
        pytest.param(Window(SPEECH, "fr"), "'fr' is not spoken here: send en", id="language"),
        pytest.param(Window(SPEECH, "auto"), "'auto' is not spoken here: send en", id="auto"),
        pytest.param(Window(SPEECH, ""), "is not spoken here: send en", id="no language"),
        pytest.param(Window(SPEECH.astype(np.float32), "en"), "int16", id="float"),
        pytest.param(Window(SPEECH[None], "en"), "one row", id="two axes"),
    ],
)
def test_a_bad_window_fails_alone_and_says_why(
    moonshine: MoonshineEngine, clips: list[Clip], window: Window, message: str
) -> None:
    good = Window(clips[1].audio, "en")
    before, bad, after = decode(moonshine, good, window, good)
    assert isinstance(bad, EngineError)
    assert message in str(bad)
    assert isinstance(before, Hypothesis)
    assert isinstance(after, Hypothesis)
    assert before.text == after.text != ""


@pytest.mark.parametrize("samples", [1600, 1601, 1663, 1664, 2000])
def test_the_shortest_windows_decode(moonshine: MoonshineEngine, clips: list[Clip], samples: int) -> None:
    (result,) = decode(moonshine, Window(clips[0].audio[4000 : 4000 + samples], "en-GB"))
    assert isinstance(result, Hypothesis)


def test_the_longest_window_decodes(moonshine: MoonshineEngine, clips: list[Clip]) -> None:
    (result,) = decode(moonshine, Window(clips[-1].audio[: 16000 * 30], "EN"))
    assert isinstance(result, Hypothesis)
    assert len(result.text.split()) > 60


def _hum(level: float) -> NDArray[np.int16]:
    wave: NDArray[np.float64] = level * np.sin(2 * np.pi * 50 / 16000 * np.arange(32000))
    return wave.astype(np.int16)


@pytest.mark.parametrize(
    "audio",
    [
        pytest.param(np.zeros(32000, np.int16), id="zeros"),
        pytest.param(np.full(32000, 3000, np.int16), id="constant offset"),
        pytest.param(np.full(32000, -32768, np.int16), id="stuck at the rail"),
        pytest.param(np.random.default_rng(1).normal(0, 10, 32000).astype(np.int16), id="faint noise"),
        pytest.param(_hum(12), id="faint hum"),
    ],
)
def test_silence_has_no_text(moonshine: MoonshineEngine, audio: NDArray[np.int16]) -> None:
    (result,) = decode(moonshine, Window(audio, "en"))
    assert isinstance(result, Hypothesis)
    assert (result.text, result.confidence, result.tokens.tolist()) == ("", 0.0, [])


@pytest.mark.parametrize("level", [100, 1000, 8000])
@pytest.mark.parametrize("seconds", [1, 3])
def test_loud_noise_has_no_text_or_is_flagged(moonshine: MoonshineEngine, level: int, seconds: int) -> None:
    noise = np.random.default_rng(level).normal(0, level, 16000 * seconds).clip(-32768, 32767).astype(np.int16)
    (result,) = decode(moonshine, Window(noise, "en"))
    assert isinstance(result, Hypothesis)
    assert not result.text or result.stats["no_speech"] == 1


def test_speech_is_not_flagged(moonshine: MoonshineEngine, clips: list[Clip]) -> None:
    results = decode(moonshine, *[Window(clip.audio[: 16000 * 8], "en") for clip in clips])
    assert all(isinstance(result, Hypothesis) and result.stats["no_speech"] == 0 for result in results)


def test_missing_files_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make setup"):
        MoonshineEngine(tmp_path)


def test_an_unknown_precision_or_device_is_an_error(moonshine_dir: Path) -> None:
    with pytest.raises(ValueError, match="use int8, fp32 or fp16"):
        MoonshineEngine(moonshine_dir, precision="int3")
    with pytest.raises(ValueError, match="use cpu or cuda"):
        MoonshineEngine(moonshine_dir, device="abacus")


def test_a_gpu_that_is_not_there_is_an_error(moonshine_dir: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="install onnxruntime-gpu"):
        MoonshineEngine(moonshine_dir, device="cuda")


def test_the_default_precision_is_one_that_is_exact_here(moonshine_dir: Path, clips: list[Clip]) -> None:
    wanted = "int8" if exact_int8() else "fp32"
    first, second = (MoonshineEngine(moonshine_dir, precision=precision) for precision in ("", wanted))
    (left,), (right,) = (decode(engine, Window(clips[0].audio, "en")) for engine in (first, second))
    assert isinstance(left, Hypothesis)
    assert isinstance(right, Hypothesis)
    assert left.confidence == right.confidence
