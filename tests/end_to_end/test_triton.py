"""Real speech through the real Triton, without the gateway."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import tritonclient.grpc.aio as triton_grpc

from launcher.triton import TritonProcess
from tests.triton_models.tensors import speech_inputs

pytestmark = pytest.mark.triton
CLIP = Path(__file__).parent.parent / "data" / "audio" / "jfk.wav"


@pytest.mark.parametrize(("model", "language"), [("asr", "en"), ("asr_multilingual", "auto")])
async def test_a_clip_is_heard_by_every_model(triton: TritonProcess, model: str, language: str) -> None:
    audio, _ = soundfile.read(CLIP, dtype="int16")
    async with triton_grpc.InferenceServerClient(triton.options.grpc_url) as client:
        answer = await client.infer(model, speech_inputs(audio, language), client_timeout=60)

    text = answer.as_numpy("TEXT")[0, 0].decode().lower()
    assert "ask not what your country can do for you" in text.replace(",", "")
    assert answer.as_numpy("LANGUAGE")[0, 0] == b"en"
    assert 0 < answer.as_numpy("CONFIDENCE")[0, 0] <= 1
    assert answer.as_numpy("TOKENS").shape[1] > 10
