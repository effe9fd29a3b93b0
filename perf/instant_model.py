"""A speech model for Triton that answers at once: as many words as were probably said in a window of that length.

It takes the place of `triton_models/asr/1/model.py` where the gateway alone is measured.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

WORDS_PER_SECOND = 2.6
TOKENS_PER_WORD = 1.4
WORDS = (
    "it was the best of times worst age wisdom foolishness epoch belief incredulity season light darkness spring hope"
    " winter despair we had everything before us nothing were all going direct heaven other way in short period so far"
).split()


class TritonPythonModel:
    """One instance."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers every request."""
        return [_response(pb_utils.get_input_tensor_by_name(request, "AUDIO").shape()[1]) for request in requests]


def _response(samples: int) -> Any:
    count = int(samples / 16000 * WORDS_PER_SECOND)
    text = " ".join(WORDS[number % len(WORDS)] for number in range(count))
    tokens = np.arange(int(count * TOKENS_PER_WORD), dtype=np.int32)[None]
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor("TEXT", np.array([[text.encode()]], np.object_)),
            pb_utils.Tensor("TOKENS", tokens),
            pb_utils.Tensor("CONFIDENCE", np.array([[0.9]], np.float32)),
            pb_utils.Tensor("LANGUAGE", np.array([[b"en"]], np.object_)),
        ]
    )
