"""Reads the packaged int8 Moonshine graphs and gives their weights by name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

from engines.runtime.linear import FloatArray, Linear

_QUANTISED_OPS = {"MatMulIntegerToFloat", "DynamicQuantizeMatMul"}


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """All weights of one packaged graph.

    Attributes:
        linears: quantised matrices by module path, such as ``layers.0.self_attn.q_proj``.
        tensors: float tensors (norms, biases, convolutions) by parameter name.
    """

    linears: dict[str, Linear]
    tensors: dict[str, FloatArray]


def read(path: Path) -> Weights:
    """Reads an `.ort` file.

    Raises:
        ValueError: the file is not a packaged Moonshine graph.
    """
    model = _as_onnx(path)
    arrays: dict[str, NDArray[np.generic]] = {}
    nodes: list[onnx.NodeProto] = []
    for graph in _graphs(model.graph):
        arrays |= {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        nodes += graph.node
    linears = {_module(node.name): _linear(node, arrays) for node in nodes if node.op_type in _QUANTISED_OPS}
    if not linears:
        raise ValueError(f"{path} holds no quantised matrices; expected a Moonshine graph of moonshine-voice 0.0.59")
    if "model.decoder.embed_tokens.weight_merged_0_quantized" in arrays:
        linears["embed_tokens"] = _packed("model.decoder.embed_tokens.weight_merged_0", arrays)
    floats = {_parameter(name): array for name, array in arrays.items() if array.dtype == np.float32}
    tensors = {name: np.asarray(array, np.float32) for name, array in floats.items()}
    return Weights(linears, tensors | _group_norm(nodes, arrays))


def _as_onnx(path: Path) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "graph.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.optimized_model_filepath = str(target)
        options.add_session_config_entry("session.save_model_format", "ONNX")
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(target)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _linear(node: onnx.NodeProto, arrays: dict[str, NDArray[np.generic]]) -> Linear:
    return _packed(node.input[1].removesuffix("_quantized"), arrays)


def _packed(name: str, arrays: dict[str, NDArray[np.generic]]) -> Linear:
    """The package has one scale and one zero point a matrix, and unsigned codes; the same weights in signed ones."""
    codes = np.asarray(arrays[f"{name}_quantized"], np.uint8).astype(np.int16) - 128
    columns = codes.shape[1]
    scales = np.full(columns, arrays[f"{name}_scale"], np.float32)
    zeros = np.full(columns, int(arrays[f"{name}_zero_point"]) - 128, np.int8)
    return Linear(codes.astype(np.int8), scales, zeros)


def _module(node_name: str) -> str:
    parts = [part for part in node_name.split("/") if part]
    return ".".join(parts[:-1]).removeprefix("model.decoder.")


def _parameter(name: str) -> str:
    return name.removeprefix("model.decoder.").removesuffix("_merged_0").removesuffix("_add_tensor")


def _group_norm(nodes: list[onnx.NodeProto], arrays: dict[str, NDArray[np.generic]]) -> dict[str, FloatArray]:
    """The group norm's scale and shift carry exporter numbers for names; the nodes that use them do not."""
    found: dict[str, FloatArray] = {}
    for node in nodes:
        if node.name in {"/groupnorm/Mul", "/groupnorm/Add"}:
            key = "groupnorm.weight" if node.op_type == "Mul" else "groupnorm.bias"
            found[key] = np.asarray(arrays[node.input[1]], np.float32)
    return found
