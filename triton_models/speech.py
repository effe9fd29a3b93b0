"""What every speech model on Triton has in common: tensors in, tensors out, whatever the engine."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from engines.base import NO_TOKENS, Engine, EngineError, Hypothesis, Window

WARM_UP_SECONDS = (1, 4, 12)


class SpeechModel(ABC):
    """One instance: an engine with its own threads. A model makes the engine."""

    @abstractmethod
    def make_engine(self, model_dir: Path, device_id: int, parameters: dict[str, str]) -> Engine:
        """The engine that `parameters`, those of `config.pbtxt`, describe."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Loads the engine and decodes a few windows, so that the first request finds everything in place."""
        given = json.loads(args["model_config"])["parameters"]
        parameters = {key: value["string_value"] for key, value in given.items()}
        device_id = int(args["model_instance_device_id"])
        self._engine = self.make_engine(Path(parameters["MODEL_DIR"]), device_id, parameters)
        noise = np.random.default_rng(0).normal(0, 300, 16000 * max(WARM_UP_SECONDS)).astype(np.int16)
        self._engine.transcribe([Window(noise[: 16000 * seconds], "en") for seconds in WARM_UP_SECONDS])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers every request of the batch; one that is cancelled or not valid costs its neighbours nothing."""
        responses: list[Any] = [_cancelled() if request.is_cancelled() else None for request in requests]
        live = [index for index, response in enumerate(responses) if response is None]
        results = self._engine.transcribe([_window(requests[index]) for index in live])
        for index, result in zip(live, results, strict=True):
            responses[index] = _response(result)
        return responses

    def finalize(self) -> None:
        """Ends the engine's threads."""
        self._engine.close()


def _window(request: Any) -> Window:
    audio = pb_utils.get_input_tensor_by_name(request, "AUDIO").as_numpy()
    language = pb_utils.get_input_tensor_by_name(request, "LANGUAGE").as_numpy()
    draft = pb_utils.get_input_tensor_by_name(request, "DRAFT")
    tokens = NO_TOKENS if draft is None else draft.as_numpy().reshape(-1)
    is_partial = bool(json.loads(request.parameters() or "{}").get("partial", False))
    return Window(audio.reshape(-1), language.reshape(-1)[0].decode(errors="replace"), tokens, is_partial)


def _response(result: Hypothesis | EngineError) -> Any:
    if isinstance(result, EngineError):
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(result), pb_utils.TritonError.INVALID_ARG))
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor("TEXT", np.array([[result.text.encode()]], np.object_)),
            pb_utils.Tensor("TOKENS", result.tokens.reshape(1, -1)),
            pb_utils.Tensor("CONFIDENCE", np.array([[result.confidence]], np.float32)),
            pb_utils.Tensor("LANGUAGE", np.array([[result.language.encode()]], np.object_)),
            pb_utils.Tensor("WORDS", result.words.reshape(1, -1)),
        ]
    )


def _cancelled() -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError("cancelled", pb_utils.TritonError.CANCELLED))
