"""Requests and answers as Triton's protobuf messages."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

from server.inference.errors import Fault, InferenceError
from server.session.commands import Decode
from server.session.segment import Hypothesis

PROBE_SPEECH = Path(__file__).with_name("probe.pcm")
"""The words "and so", spoken by John F. Kennedy in 1961; public domain."""

PROBE_TEXT = "hello how are you"
"""What the punctuation model is tried with."""


def asr_request(model: str, command: Decode) -> ModelInferRequest:
    """A window for a speech model."""
    request = ModelInferRequest(model_name=model)
    audio = np.ascontiguousarray(command.audio, "<i2")
    _add(request, "AUDIO", "INT16", len(audio), audio.tobytes())
    _add_text(request, "LANGUAGE", command.language)
    # Sent even when empty: Triton puts no request with this input into one batch with one that lacks it.
    draft = np.ascontiguousarray(command.draft, "<i4")
    _add(request, "DRAFT", "INT32", len(draft), draft.tobytes())
    # A parameter and no input: requests with and without it share batches.
    request.parameters["partial"].bool_param = command.is_partial
    return request


def hypothesis(answer: ModelInferResponse) -> Hypothesis:
    """What a speech model answered.

    Raises:
        InferenceError: FAILED, for an answer that does not hold what it should.
    """
    raw = _outputs(answer)
    try:
        return Hypothesis(
            text=_text(raw["TEXT"]),
            tokens=np.frombuffer(raw["TOKENS"], "<i4").astype(np.int32),
            confidence=float(struct.unpack("<f", raw["CONFIDENCE"])[0]),
            language=_text(raw["LANGUAGE"]),
            words=np.frombuffer(raw.get("WORDS", b""), "<f4").astype(np.float32),
        )
    except (KeyError, ValueError, struct.error) as error:
        raise InferenceError(Fault.FAILED, f"{answer.model_name} gave an answer of the wrong form: {error!r}") from None


def punctuation_request(model: str, text: str, context: str, language: str) -> ModelInferRequest:
    """A text for the punctuation model; `context` is what was said before it."""
    request = ModelInferRequest(model_name=model)
    _add_text(request, "TEXT", text)
    _add_text(request, "CONTEXT", context)
    _add_text(request, "LANGUAGE", language)
    return request


def punctuated(answer: ModelInferResponse) -> str:
    """What the punctuation model answered.

    Raises:
        InferenceError: FAILED, for an answer that does not hold what it should.
    """
    try:
        return _text(_outputs(answer)["TEXT"])
    except (KeyError, ValueError, struct.error) as error:
        raise InferenceError(Fault.FAILED, f"{answer.model_name} gave an answer of the wrong form: {error!r}") from None


def common_prefix(draft: NDArray[np.int32], tokens: NDArray[np.int32]) -> int:
    """How many tokens both begin with."""
    length = min(len(draft), len(tokens))
    differs = draft[:length] != tokens[:length]
    return int(differs.argmax()) if differs.any() else length


def probe_window() -> NDArray[np.int16]:
    """Eight tenths of a second of speech (int16, 16 kHz): what is no speech takes some engines many tries."""
    return np.frombuffer(PROBE_SPEECH.read_bytes(), "<i2").astype(np.int16)


def _add(request: ModelInferRequest, name: str, datatype: str, length: int, content: bytes) -> None:
    tensor = request.inputs.add()
    tensor.name = name
    tensor.datatype = datatype
    tensor.shape.extend((1, length))
    request.raw_input_contents.append(content)


def _add_text(request: ModelInferRequest, name: str, text: str) -> None:
    content = text.encode()
    _add(request, name, "BYTES", 1, struct.pack("<I", len(content)) + content)


def _outputs(answer: ModelInferResponse) -> dict[str, bytes]:
    return {tensor.name: raw for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=False)}


def _text(raw: bytes) -> str:
    (length,) = struct.unpack_from("<I", raw)
    return raw[4 : 4 + length].decode()
