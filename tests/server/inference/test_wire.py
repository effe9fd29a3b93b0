"""Requests and answers as Triton's messages."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from server.inference import wire
from server.inference.errors import Fault, InferenceError
from server.session.commands import Decode
from tests.server.inference.fake_triton import answer_to, asked_of


def test_a_window_has_the_tensors_of_the_contract() -> None:
    audio = np.array([-32768, 0, 32767], np.int16)
    request = wire.asr_request("asr", Decode(1, audio, "en", np.array([5, 6], np.int32)))
    assert [(t.name, t.datatype, list(t.shape)) for t in request.inputs] == [
        ("AUDIO", "INT16", [1, 3]),
        ("LANGUAGE", "BYTES", [1, 1]),
        ("DRAFT", "INT32", [1, 2]),
    ]
    assert request.raw_input_contents[0] == struct.pack("<3h", -32768, 0, 32767)
    assert request.raw_input_contents[1] == b"\x02\0\0\0en"
    assert request.raw_input_contents[2] == struct.pack("<2i", 5, 6)


def test_an_empty_draft_is_sent_too() -> None:
    request = wire.asr_request("asr", Decode(1, np.zeros(3, np.int16), "en"))
    assert [list(t.shape) for t in request.inputs if t.name == "DRAFT"] == [[1, 0]]
    assert asked_of(request).draft == ()


def test_audio_need_not_lie_in_one_piece() -> None:
    audio = np.arange(10, dtype=np.int16)[::2]
    request = wire.asr_request("asr", Decode(1, audio, "en"))
    assert request.raw_input_contents[0] == struct.pack("<5h", 0, 2, 4, 6, 8)


def test_an_answer_becomes_a_hypothesis() -> None:
    request = wire.asr_request("asr", Decode(1, np.zeros(1600, np.int16), "en"))
    hypothesis = wire.hypothesis(answer_to(asked_of(request)))
    assert (hypothesis.text, hypothesis.confidence, hypothesis.language) == ("1600 samples", 0.5, "en")
    assert hypothesis.tokens.tolist() == [1600, 7]
    assert hypothesis.tokens.dtype == np.int32
    assert hypothesis.tokens.flags.writeable


@pytest.mark.parametrize("text", ["", "naïve", "привет", "日本 🎉"])
def test_text_survives_both_ways(text: str) -> None:
    request = wire.punctuation_request("punctuation", text, "what was said " + text, "ru")
    asked = asked_of(request)
    assert (asked.text, asked.context, asked.language) == (text, "what was said " + text, "ru")
    answer = pb.ModelInferResponse(model_name="punctuation")
    answer.outputs.add(name="TEXT", datatype="BYTES", shape=[1, 1])
    answer.raw_output_contents.append(struct.pack("<I", len(text.encode())) + text.encode())
    assert wire.punctuated(answer) == text


def broken(**raw: bytes) -> pb.ModelInferResponse:
    whole = {
        "TEXT": b"\x01\0\0\0a",
        "TOKENS": b"",
        "CONFIDENCE": struct.pack("<f", 1.0),
        "LANGUAGE": b"\x02\0\0\0en",
    }
    answer = pb.ModelInferResponse(model_name="asr")
    for name, content in (whole | raw).items():
        if content != b"absent":
            answer.outputs.add(name=name)
            answer.raw_output_contents.append(content)
    return answer


@pytest.mark.parametrize(
    "raw",
    [
        {"TEXT": b"absent"},
        {"TEXT": b""},
        {"TEXT": b"\x01\0\0\0\xff"},
        {"TOKENS": b"\x01"},
        {"CONFIDENCE": b""},
        {"CONFIDENCE": b"12345678"},
        {"LANGUAGE": b"\x02"},
    ],
)
def test_an_answer_of_the_wrong_form_is_the_models_fault(raw: dict[str, bytes]) -> None:
    assert wire.hypothesis(broken()).text == "a"
    with pytest.raises(InferenceError, match="asr gave an answer of the wrong form") as caught:
        wire.hypothesis(broken(**raw))
    assert caught.value.fault is Fault.FAILED


def test_a_punctuated_text_of_the_wrong_form_is_the_models_fault() -> None:
    with pytest.raises(InferenceError, match="wrong form"):
        wire.punctuated(pb.ModelInferResponse())


def test_the_probe_is_loud_and_does_not_clip() -> None:
    window = wire.probe_window()
    assert window.dtype == np.int16
    assert 1600 <= len(window) <= 16000
    assert window.astype(float).std() > 500
    assert int(np.abs(window.astype(int)).max()) < 32767


def test_a_model_is_told_what_is_a_partial() -> None:
    audio = np.zeros(1600, np.int16)
    for is_partial in (True, False):
        request = wire.asr_request("asr", Decode(1, audio, "en", is_partial=is_partial))
        assert request.parameters["partial"].bool_param is is_partial
