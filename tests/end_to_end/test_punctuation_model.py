"""The punctuation model inside the real Triton."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from launcher.triton import TritonProcess

pytestmark = [pytest.mark.triton, pytest.mark.timeout(300)]


@pytest.fixture
def punctuate(make_triton: Callable[..., TritonProcess]) -> Callable[[str, str, str], str]:
    client = triton_grpc.InferenceServerClient(make_triton(["punctuation"]).options.grpc_url)

    def run(text: str, context: str, language: str) -> str:
        inputs = []
        for name, value in (("TEXT", text), ("CONTEXT", context), ("LANGUAGE", language)):
            tensor = triton_grpc.InferInput(name, [1, 1], "BYTES")
            tensor.set_data_from_numpy(np.array([[value.encode()]], np.object_))
            inputs.append(tensor)
        result = client.infer("punctuation", inputs, client_timeout=60).as_numpy("TEXT")
        assert result is not None
        return bytes(result[0, 0]).decode()

    return run


def test_texts_go_through_triton_as_through_the_engine(punctuate: Callable[[str, str, str], str]) -> None:
    assert punctuate("we went to london last week.", "", "en") == "We went to London last week."
    assert punctuate("¿Qué tal? ", "", "es") == "¿Qué tal?"
    assert punctuate("", "And so", "en") == ""
    with pytest.raises(triton_grpc.InferenceServerException, match="send at most"):
        punctuate("word " * 20_000, "", "en")
    assert punctuate("Café.", "", "en").startswith("Café")
