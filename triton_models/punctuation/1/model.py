"""Triton's side of the punctuation model: texts in, texts out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from engines.base import EngineError
from engines.punctuation import Punctuator, Request, parse_policies

_WARM_UP = ("so", "we went to the market and bought some apples", "and " * 60)


class TritonPythonModel:
    """One instance: a punctuator with its own threads."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Loads the model and punctuates a few texts, so that the first request finds everything in place."""
        given = json.loads(args["model_config"])["parameters"]
        parameters = {key: value["string_value"] for key, value in given.items()}
        self._punctuator = Punctuator(
            Path(parameters["MODEL_DIR"]),
            policies=parse_policies(parameters["POLICIES"]),
            threads=int(parameters["THREADS"]),
        )
        self._punctuator.punctuate([Request(text) for text in _WARM_UP])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers every request of the batch; one that is cancelled or not valid costs its neighbours nothing."""
        responses: list[Any] = [_cancelled() if request.is_cancelled() else None for request in requests]
        live = [index for index, response in enumerate(responses) if response is None]
        results = self._punctuator.punctuate([_request(requests[index]) for index in live])
        for index, result in zip(live, results, strict=True):
            responses[index] = _response(result)
        return responses


def _request(request: Any) -> Request:
    return Request(_text(request, "TEXT"), _text(request, "CONTEXT"), _text(request, "LANGUAGE"))


def _text(request: Any, name: str) -> str:
    value: bytes = pb_utils.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)[0]
    return value.decode(errors="replace")


def _response(result: str | EngineError) -> Any:
    if isinstance(result, EngineError):
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(result), pb_utils.TritonError.INVALID_ARG))
    return pb_utils.InferenceResponse([pb_utils.Tensor("TEXT", np.array([[result.encode()]], np.object_))])


def _cancelled() -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError("cancelled", pb_utils.TritonError.CANCELLED))
