"""Both speech models behind the real Triton."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tritonclient.grpc as grpc_client
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from launcher.triton import TritonProcess
from tests.triton_models.tensors import speech_inputs

pytestmark = pytest.mark.triton

AUDIO = Path(__file__).parent.parent / "data" / "audio"
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Answer:
    text: str
    tokens: tuple[int, ...]
    confidence: float
    language: str


def _clip(name: str) -> NDArray[np.int16]:
    samples, _ = soundfile.read(AUDIO / name, dtype="int16")
    return np.asarray(samples, np.int16)


def _transcript(name: str) -> str:
    with (AUDIO / "transcripts.tsv").open(newline="") as table:
        return next(row["transcript"] for row in csv.DictReader(table, delimiter="\t") if row["file"] == name)


SPEECH = _clip("librivox_sense_0920.wav")


class Models:
    def __init__(self, client: grpc_client.InferenceServerClient) -> None:
        self.client = client

    def ask(self, model: str, audio: NDArray[np.int16], language: str = "en", draft: list[int] | None = None) -> Answer:
        result = self.client.infer(model, speech_inputs(audio, language, draft), client_timeout=TIMEOUT_S)
        return Answer(
            result.as_numpy("TEXT")[0, 0].decode(),
            tuple(result.as_numpy("TOKENS")[0].tolist()),
            float(result.as_numpy("CONFIDENCE")[0, 0]),
            result.as_numpy("LANGUAGE")[0, 0].decode(),
        )

    def calls(self, model: str, at_least: int = 0) -> tuple[int, int]:
        """Requests answered and `execute()` calls so far, as soon as so many are counted: Triton answers first."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            statistics = self.client.get_inference_statistics(model, as_json=True)["model_stats"][0]
            answered = int(statistics.get("inference_count", 0))
            if answered >= at_least:
                return answered, int(statistics.get("execution_count", 0))
            assert time.monotonic() < deadline, f"{answered} requests are counted, not {at_least}"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def models(triton: TritonProcess) -> Iterator[Models]:
    with grpc_client.InferenceServerClient(triton.options.grpc_url) as client:
        yield Models(client)


def test_english_answers_with_everything(models: Models) -> None:
    answer = models.ask("asr", SPEECH)
    assert answer.text == _transcript("librivox_sense_0920.wav")
    assert answer.language == "en"
    assert 0.8 < answer.confidence <= 1
    assert models.ask("asr", SPEECH, draft=list(answer.tokens)) == answer


def test_multilingual_finds_the_language(models: Models) -> None:
    answer = models.ask("asr_multilingual", SPEECH, "auto")
    assert answer.language == "en"
    assert "amiable woman" in answer.text
    assert answer.tokens


@pytest.mark.parametrize("model", ["asr", "asr_multilingual"])
def test_silence_has_no_text_and_no_tokens(models: Models, model: str) -> None:
    assert models.ask(model, np.zeros(16000, np.int16)) == Answer("", (), 0.0, "en")


def test_mixed_windows_share_batches_and_keep_their_texts(models: Models) -> None:
    windows = [SPEECH[: 8000 * (2 + index % 9)] for index in range(24)]
    drafts = [[] if index % 2 else [7, 99999, -1] for index in range(24)]
    answered, _ = models.calls("asr")
    alone = [models.ask("asr", window, draft=[]) for window in windows]
    answered, executed = models.calls("asr", answered + 24)
    with ThreadPoolExecutor(24) as pool:
        together = list(
            pool.map(lambda pair: models.ask("asr", pair[0], draft=pair[1]), zip(windows, drafts, strict=True))
        )
    assert together == alone
    _, executed_now = models.calls("asr", answered + 24)
    assert executed_now - executed < 24


@pytest.mark.parametrize(
    ("model", "audio", "language", "message"),
    [
        ("asr", SPEECH[:100], "en", "too short: send at least"),
        ("asr", SPEECH, "ru", "is not spoken here: send en"),
        ("asr", np.tile(SPEECH, 6), "en", "too long: send at most"),
        ("asr_multilingual", SPEECH, "klingon", "is not known: send a code"),
    ],
)
def test_a_bad_request_fails_alone(
    models: Models, model: str, audio: NDArray[np.int16], language: str, message: str
) -> None:
    with ThreadPoolExecutor(7) as pool:
        good = [pool.submit(models.ask, model, SPEECH[:32000]) for _ in range(3)]
        bad = pool.submit(models.ask, model, audio, language)
        good += [pool.submit(models.ask, model, SPEECH[:32000]) for _ in range(3)]
        with pytest.raises(InferenceServerException, match=message) as caught:
            bad.result()
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        assert len({future.result() for future in good if future.result().text}) == 1
