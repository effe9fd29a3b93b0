"""Reads a network back that `training.punctuation.export` has written, to go on with its training."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from training.punctuation.network import Tagger

_LAYER = re.compile(r"layers\.(\d+)\.")


def read_exported(path: Path) -> Tagger:
    """The tagger of an exported ``punctuation.onnx``, its weights widened to floats, ready to use.

    Raises ValueError where the file holds another network.
    """
    graph = onnx.load(str(path)).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            stored, scale, _ = (tensors.pop(name) for name in node.input)
            tensors[node.output[0]] = _widened(stored, scale, next(a.i for a in node.attribute if a.name == "axis"))
    state = {name: value for name, value in tensors.items() if name.endswith((".weight", ".bias"))}
    state |= _matrices(graph, tensors)
    layers = {found.group(1) for found in map(_LAYER.match, state) if found}
    try:
        tagger = Tagger(len(layers), vocabulary=len(state["pieces.weight"]))
        tagger.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in state.items()})
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path} does not hold the network of this training: {error}") from error
    tagger.eval()
    return tagger


def _widened(stored: NDArray[np.int8], scale: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    return stored.astype(np.float32) * np.expand_dims(scale, 1 - axis)


def _matrices(graph: onnx.GraphProto, tensors: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """The weights of linear layers by their names: ONNX keeps them transposed, and only the bias has its name."""
    products = {
        node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul" and node.input[1] in tensors
    }
    found = {}
    for node in graph.node:
        bias = [name for name in node.input if name.endswith(".bias")]
        product = [name for name in node.input if name in products]
        if node.op_type == "Add" and bias and product:
            found[bias[0].removesuffix("bias") + "weight"] = tensors[products[product[0]]].T
    return found
