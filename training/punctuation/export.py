"""Writes the trained tagger as one ONNX file whose weights are stored in 8 bits and used as floats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from training.punctuation.network import Tagger

OPSET = 17

_SMALLEST = 4096
"""Tensors of fewer values than this stay floats: norms, biases, heads, hints."""


def export(tagger: Tagger, path: Path) -> None:
    """Writes ``columns`` int32 (b, 5, n) to ``marks`` (b, n, 5) and ``cases`` (b, n, 4), float32.

    Every big weight becomes int8 with one scale a row (embeddings) or a column (matrices). Activations stay floats:
    a scale taken over a batch would let one text change another.
    """
    example = torch.ones((2, 5, 16), dtype=torch.int32)
    axes = {name: {0: "batch", 1: "pieces"} for name in ("marks", "cases")} | {"columns": {0: "batch", 2: "pieces"}}
    torch.onnx.export(
        tagger.eval(),
        (example,),
        str(path),
        input_names=["columns"],
        output_names=["marks", "cases"],
        dynamic_axes=axes,
        opset_version=OPSET,
        dynamo=False,
    )
    model = onnx.load(str(path))
    store_in_8_bits(model)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def store_in_8_bits(model: onnx.ModelProto) -> None:
    """Stores the float weights of `MatMul` and `Gather` nodes as int8 tensors with a `DequantizeLinear` after each."""
    graph = model.graph
    uses = {name: node for node in graph.node for name in node.input}
    added: list[onnx.NodeProto] = []
    for tensor in list(graph.initializer):
        node = uses.get(tensor.name)
        weights = numpy_helper.to_array(tensor)
        if node is None or weights.ndim != 2 or weights.size < _SMALLEST or node.op_type not in ("MatMul", "Gather"):
            continue
        axis = 0 if node.op_type == "Gather" else 1
        graph.initializer.remove(tensor)
        added.append(_quantised(graph, tensor.name, weights, axis))
    for offset, node in enumerate(added):
        graph.node.insert(offset, node)


def _quantised(graph: onnx.GraphProto, name: str, weights: NDArray[np.float32], axis: int) -> onnx.NodeProto:
    scale = np.maximum(np.abs(weights).max(1 - axis), 1e-12).astype(np.float32) / np.float32(127)
    spread = scale[:, None] if axis == 0 else scale[None, :]
    stored = np.clip(np.rint(weights / spread), -127, 127).astype(np.int8)
    graph.initializer.append(numpy_helper.from_array(stored, name + "_8bit"))
    graph.initializer.append(numpy_helper.from_array(scale, name + "_scale"))
    zero = helper.make_tensor(
        name + "_zero", TensorProto.INT8, scale.shape, np.zeros(scale.shape, np.int8).tobytes(), True
    )
    graph.initializer.append(zero)
    inputs = [name + "_8bit", name + "_scale", name + "_zero"]
    return helper.make_node("DequantizeLinear", inputs, [name], axis=axis, name=name + "_widened")
