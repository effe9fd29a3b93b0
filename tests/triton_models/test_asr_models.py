"""Both speech models behind the real Triton."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import soundfile
import tritonclient.grpc as grpc_client
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from launcher.triton import TritonProcess

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


def _inputs(audio: NDArray[np.int16], language: str, draft: list[int] | None) -> list[grpc_client.InferInput]:
    tensors: list[tuple[str, str, NDArray[np.generic]]] = [
        ("AUDIO", "INT16", audio[None]),
        ("LANGUAGE", "BYTES", np.array([[language.encode()]], np.object_)),
    ]
    if draft is not None:
        tensors.append(("DRAFT", "INT32", np.array([draft], np.int32)))
    inputs = []
    for name, kind, value in tensors:
        tensor = grpc_client.InferInput(name, list(value.shape), kind)
        tensor.set_data_from_numpy(value)
        inputs.append(tensor)
    return inputs


class Models:
    def __init__(self, client: grpc_client.InferenceServerClient) -> None:
        self.client = client

    def ask(self, model: str, audio: NDArray[np.int16], language: str = "en", draft: list[int] | None = None) -> Answer:
        result = self.client.infer(model, _inputs(audio, language, draft), client_timeout=TIMEOUT_S)
        return Answer(
            result.as_numpy("TEXT")[0, 0].decode(),
            tuple(result.as_numpy("TOKENS")[0].tolist()),
            float(result.as_numpy("CONFIDENCE")[0, 0]),
            result.as_numpy("LANGUAGE")[0, 0].decode(),
        )

    def calls(self, model: str) -> tuple[int, int]:
        """Requests answered and `execute()` calls so far."""
        statistics = self.client.get_inference_statistics(model, as_json=True)["model_stats"][0]
        return int(statistics.get("inference_count", 0)), int(statistics.get("execution_count", 0))


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
    alone = [models.ask("asr", window, draft=[]) for window in windows]
    answered, executed = models.calls("asr")
    with ThreadPoolExecutor(24) as pool:
        together = list(
            pool.map(lambda pair: models.ask("asr", pair[0], draft=pair[1]), zip(windows, drafts, strict=True))
        )
    assert together == alone
    answered_now, executed_now = models.calls("asr")
    # Triton counts an answer after it has sent it: the last of those before may be among them.
    assert 24 <= answered_now - answered <= 25
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


def test_cancelled_requests_cost_no_work(models: Models) -> None:
    """Long windows queue behind each other; those that are cancelled in the queue are never decoded."""
    long = np.tile(SPEECH, 4)
    before, _ = models.calls("asr")
    ended = [Event() for _ in range(40)]

    def note(event: Event):  # type: ignore[no-untyped-def]
        return lambda result, error: event.set()

    pending = [
        models.client.async_infer("asr", _inputs(long, "en", []), note(event), client_timeout=TIMEOUT_S)
        for event in ended
    ]
    for call in pending[1:]:
        call.cancel()
    assert all(event.wait(TIMEOUT_S) for event in ended)
    assert models.ask("asr", SPEECH[:32000]).text
    after, _ = models.calls("asr")
    assert after - before < 40
