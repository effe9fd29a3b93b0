from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from server.audio.onnx_wire import GraphWriter
from server.audio.silero import CONTEXT, HIDDEN, WINDOW, batched_graph


def test_the_graph_is_valid(silero_path: Path) -> None:
    model = onnx.load_model_from_string(batched_graph(silero_path.read_bytes()))
    onnx.checker.check_model(model, full_check=True)


def test_one_step_is_that_of_the_packaged_graph(silero_path: Path) -> None:
    """Every output, from random states, at more than one stream: probabilities and both halves of the state."""
    random = np.random.default_rng(7)
    streams = 5
    windows = (3000 * random.standard_normal((1, streams, CONTEXT + WINDOW))).astype(np.int16)
    state = np.tanh(random.standard_normal((2, streams, HIDDEN))).astype(np.float32)
    ours = ort.InferenceSession(batched_graph(silero_path.read_bytes()), providers=["CPUExecutionProvider"])
    speech, hidden, cell = ours.run(None, {"windows": windows, "hidden": state[:1], "cell": state[1:]})
    packaged = ort.InferenceSession(silero_path, providers=["CPUExecutionProvider"])
    feeds = {"input": windows[0] / np.float32(32768), "state": state, "sr": np.array(16000)}
    expected, next_state = packaged.run(None, feeds)
    np.testing.assert_allclose(speech[0], expected[:, 0], atol=1e-5)
    np.testing.assert_allclose(np.concatenate([hidden, cell]), next_state, atol=1e-4)


def test_another_model_is_refused_by_name() -> None:
    graph = GraphWriter()
    values = graph.input("values", np.float32, [1])
    graph.node("Relu", values, outputs=["result"])
    graph.output("result", np.float32, [1])
    with pytest.raises(ValueError, match=r"silero_vad_16k_op15\.onnx.*stft\.forward_basis_buffer"):
        batched_graph(graph.serialize())
