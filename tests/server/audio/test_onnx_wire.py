from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from server.audio.onnx_wire import GraphWriter, read_weights


def small_graph() -> GraphWriter:
    graph = GraphWriter()
    values = graph.input("values", np.float32, ["rows", 3])
    weight = graph.constant(np.arange(6, dtype=np.float32).reshape(3, 2))
    product = graph.node("MatMul", values, weight)
    padded = graph.node("Pad", product, graph.constant([0, -1, 0, 2]), mode="edge")
    graph.node("Concat", padded, product, outputs=["result"], axis=1)
    graph.output("result", np.float32, ["rows", 5])
    return graph


def test_what_is_written_is_a_valid_model_and_computes() -> None:
    model = small_graph().serialize()
    onnx.checker.check_model(onnx.load_model_from_string(model), full_check=True)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"values": np.eye(3, dtype=np.float32)})
    assert result.tolist() == [[1, 1, 1, 0, 1], [3, 3, 3, 2, 3], [5, 5, 5, 4, 5]]


def test_what_is_read_is_what_onnx_reads(silero_path: Path) -> None:
    expected = onnx.load(silero_path).graph.initializer
    found = read_weights(silero_path.read_bytes())
    assert set(found) == {tensor.name for tensor in expected}
    for tensor in expected:
        np.testing.assert_array_equal(found[tensor.name], numpy_helper.to_array(tensor))


def test_what_is_written_is_read_again() -> None:
    weights = read_weights(small_graph().serialize())
    assert [values.tolist() for values in weights.values()] == [[[0, 1], [2, 3], [4, 5]]]


def test_dimensions_written_one_by_one_and_packed_are_the_same() -> None:
    # name "w", float32, [2, 1], raw data; once with two dims fields, once with a packed one.
    rest = b"\x10\x01\x42\x01w\x4a\x08" + np.array([1, 2], "<f4").tobytes()
    for dims in (b"\x08\x02\x08\x01", b"\x0a\x02\x02\x01"):
        tensor = dims + rest
        graph = b"\x2a" + bytes([len(tensor)]) + tensor
        assert read_weights(b"\x3a" + bytes([len(graph)]) + graph)["w"].tolist() == [[1], [2]]


@given(st.binary(max_size=300))
def test_other_bytes_are_refused(data: bytes) -> None:
    try:
        read_weights(data)
    except ValueError as error:
        assert "not an ONNX model" in str(error)  # noqa: PT017 - bytes that happen to be an empty model are fine


@given(st.data())
def test_a_cut_model_is_refused(data: st.DataObject) -> None:
    model = small_graph().serialize()
    # The operator set comes last and is not read.
    cut = data.draw(st.integers(0, len(model) - 7))
    with pytest.raises(ValueError, match="not an ONNX model"):
        read_weights(model[:cut])
