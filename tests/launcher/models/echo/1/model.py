"""Answers each text with itself."""

from __future__ import annotations

from typing import Any

# The stub must see the checkout and Triton's own packages.
import ctranslate2  # noqa: F401
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

import engines.base  # noqa: F401


class TritonPythonModel:
    """One instance."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers every request."""
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("TEXT", pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy())]
            )
            for request in requests
        ]
