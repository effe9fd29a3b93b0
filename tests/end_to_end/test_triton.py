"""Real speech through the real Triton, without the gateway."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tritonclient.grpc.aio as triton_grpc
from numpy.typing import NDArray

from launcher.triton import TritonProcess

pytestmark = pytest.mark.triton
CLIP = Path(__file__).parent.parent / "data" / "audio" / "jfk.wav"


def _inputs(audio: NDArray[np.int16], language: str) -> list[triton_grpc.InferInput]:
    heard = triton_grpc.InferInput("AUDIO", [1, len(audio)], "INT16")
    heard.set_data_from_numpy(audio[None])
    spoken = triton_grpc.InferInput("LANGUAGE", [1, 1], "BYTES")
    spoken.set_data_from_numpy(np.array([[language.encode()]], np.object_))
    return [heard, spoken]


@pytest.mark.parametrize(("model", "language"), [("asr", "en"), ("asr_multilingual", "auto")])
async def test_a_clip_is_heard_by_every_model(triton: TritonProcess, model: str, language: str) -> None:
    audio, _ = soundfile.read(CLIP, dtype="int16")
    async with triton_grpc.InferenceServerClient(triton.options.grpc_url) as client:
        answer = await client.infer(model, _inputs(audio, language), client_timeout=60)

    text = answer.as_numpy("TEXT")[0, 0].decode().lower()
    assert "ask not what your country can do for you" in text.replace(",", "")
    assert answer.as_numpy("LANGUAGE")[0, 0] == b"en"
    assert 0 < answer.as_numpy("CONFIDENCE")[0, 0] <= 1
    assert answer.as_numpy("TOKENS").shape[1] > 10


async def test_windows_of_mixed_length_share_a_batch(triton: TritonProcess) -> None:
    audio, _ = soundfile.read(CLIP, dtype="int16")
    windows = [audio[: 16000 * seconds] for seconds in (2, 3, 4, 5, 6, 7)]
    async with triton_grpc.InferenceServerClient(triton.options.grpc_url) as client:
        before = await client.get_inference_statistics("asr", as_json=True)
        calls = [client.infer("asr", _inputs(window, "en"), client_timeout=60) for window in windows]
        await asyncio.gather(*calls)
        # Triton counts a request some time after it has answered it.
        async with asyncio.timeout(30):
            while _count(after := await client.get_inference_statistics("asr", as_json=True), "inference_count") < (
                _count(before, "inference_count") + len(windows)
            ):
                await asyncio.sleep(0.05)

    assert _count(after, "execution_count") - _count(before, "execution_count") < len(windows)


def _count(statistics: dict[str, list[dict[str, str]]], name: str) -> int:
    return int(statistics["model_stats"][0].get(name, 0))
