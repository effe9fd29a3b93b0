"""A request to a speech model, as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tritonclient.grpc as grpc_client
from numpy.typing import NDArray


def speech_inputs(
    audio: NDArray[np.int16], language: str, draft: Sequence[int] | None = None
) -> list[grpc_client.InferInput]:
    """One window of 16 kHz samples, and the tokens of an earlier hypothesis where there is one."""
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
