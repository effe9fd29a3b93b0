"""Writes ONNX graphs node by node, in float or with integer products that are exact row by row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engines.runtime.linear import FloatArray, Linear

Precision = Literal["fp32", "fp16", "int8"]

GELU_FLOOR = -0.17
"""The smallest value that GELU can give."""

MS = "com.microsoft"


@dataclass
class GraphBuilder:
    """Collects nodes and constants of one graph; every method returns the name of what it made."""

    precision: Precision
    heads: int
    head_width: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    @property
    def float_type(self) -> int:
        """What numbers are stored and computed as, where they are not integers."""
        return int(TensorProto.FLOAT16 if self.precision == "fp16" else TensorProto.FLOAT)

    def op(self, kind: str, *inputs: str, name: str, outputs: int = 1, domain: str = "", **attributes: Any) -> str:
        """Adds a node; with several outputs they are called `name.0`, `name.1` and so on."""
        names = [name] if outputs == 1 else [f"{name}.{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=name, domain=domain, **attributes))
        return names[0]

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Adds a constant once."""
        if name not in self.constants:
            if value.dtype == np.float32 and self.precision == "fp16":
                value = value.astype(np.float16)
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def ints(self, *values: int) -> str:
        """A constant row of integers."""
        return self.constant("ints." + "_".join(map(str, values)), np.array(values, np.int64))

    def integer(self, value: int) -> str:
        """A constant integer."""
        return self.constant(f"integer.{value}", np.array(value, np.int64))

    def number(self, value: float) -> str:
        """A constant number."""
        return self.constant(f"number.{value:.6g}", np.array(value, np.float32))

    def norm(self, x: str, weight: FloatArray, name: str, bias: FloatArray | None = None) -> str:
        """Normalises the last axis."""
        shift = [] if bias is None else [self.constant(f"{name}.bias", bias)]
        return self.op(
            "LayerNormalization", x, self.constant(f"{name}.weight", weight), *shift, name=name, epsilon=1e-5
        )

    def linear(self, x: str, parts: list[Linear], name: str, bias: FloatArray | None = None, floor: float = 0.0) -> str:
        """Multiplies by matrices side by side. `floor`: the smallest value that x can take, if there is one."""
        return self._product(x, Linear.join(parts), name, bias=bias, floor=floor)

    def _product(
        self,
        x: str,
        weight: Linear,
        name: str,
        *,
        bias: FloatArray | None,
        floor: float,
        dense: FloatArray | None = None,
    ) -> str:
        dense = weight.dense if dense is None else dense
        if self.precision == "int8":
            product = self._int8_matmul(x, weight, name, floor)
            bias = bias if bias is None or not floor else bias + np.float32(floor) * weight.dense.sum(axis=0)
        else:
            product = self.op("MatMul", x, self.constant(f"{name}.weight", dense), name=f"{name}.matmul")
        return product if bias is None else self.op("Add", product, self.constant(f"{name}.bias", bias), name=name)

    def convolution(self, x: str, weight: FloatArray, stride: int, name: str, *, bias: FloatArray, floor: float) -> str:
        """A convolution over frames [B, T, C] as a matrix product over gathered frames; `weight` is (N, C, kernel)."""
        outputs, channels, kernel = weight.shape
        frames = self.op("Shape", x, name=f"{name}.frames", start=1, end=2)
        last = self.op("Sub", frames, self.ints(kernel - 1), name=f"{name}.last")
        start, step = self.integer(0), self.integer(stride)
        last = self.op("Squeeze", last, name=f"{name}.stop")
        starts = self.op("Range", start, last, step, name=f"{name}.starts")
        starts = self.op("Unsqueeze", starts, self.ints(1), name=f"{name}.column")
        offsets = self.constant(f"{name}.offsets", np.arange(kernel, dtype=np.int64))
        x = self.op("Gather", x, self.op("Add", starts, offsets, name=f"{name}.index"), name=f"{name}.windows", axis=1)
        x = self.op("Reshape", x, self.ints(0, 0, kernel * channels), name=f"{name}.patches")
        dense = weight.transpose(2, 1, 0).reshape(kernel * channels, outputs)
        return self._product(x, Linear.quantise(dense), name, bias=bias, floor=floor, dense=dense)

    def _int8_matmul(self, x: str, weight: Linear, name: str, floor: float) -> str:
        """An integer product. Each row of `x` has a scale of its own, so rows cannot touch each other. (A row of
        nothing but zeros gives whatever codes, and is then multiplied by its size, zero.)

        Where x has a known `floor`, codes count from there and use the whole range; what that adds is taken off again.
        """
        if floor:
            x = self.op("Sub", x, self.number(floor), name=f"{name}.lifted")
            size, levels, middle = x, 255, 0
        else:
            size, levels, middle = self.op("Abs", x, name=f"{name}.abs"), 127, 128
        size = self.op("ReduceMax", size, self.ints(-1), name=f"{name}.max", keepdims=1)
        unit = self.op("Div", x, size, name=f"{name}.unit")
        step = self.number(1 / levels)
        zero = self.constant(f"middle.{middle}", np.array(middle, np.uint8))
        codes = self.op("QuantizeLinear", unit, step, zero, name=f"{name}.rounded")
        matrix = self.constant(f"{name}.codes", weight.codes)
        scales, zeros = self.constant(f"{name}.scales", weight.scales), self.constant(f"{name}.zeros", weight.zeros)
        inputs = (codes, matrix, step, scales, zero, zeros)
        product = self.op("MatMulIntegerToFloat", *inputs, name=f"{name}.integers", domain=MS)
        return self.op("Mul", product, size, name=f"{name}.matmul")

    def attention(self, query: str, key: str, value: str, bias: str, name: str) -> str:
        """Attention of [B, T, heads * width] to keys and values, with a bias of [B, 1, T, S] if there is one."""
        inputs = (query, key, value) if not bias else (query, key, value, "", "", bias)
        scale = self.head_width**-0.5
        return self.op("MultiHeadAttention", *inputs, name=name, domain=MS, num_heads=self.heads, scale=scale)

    def split(self, x: str, parts: int, name: str) -> list[str]:
        """Cuts the last axis into equal parts."""
        self.op("Split", x, name=name, outputs=parts, axis=-1, num_outputs=parts)
        return [f"{name}.{index}" for index in range(parts)]

    def model(self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> bytes:
        """The graph as a file's bytes."""
        graph = helper.make_graph(self.nodes, name, inputs, outputs, list(self.constants.values()))
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(MS, 1)]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="starling")
        onnx.checker.check_model(made)
        return bytes(made.SerializeToString())


def floats(builder: GraphBuilder, name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
    """An input or output of the graph's float type."""
    return helper.make_tensor_value_info(name, builder.float_type, shape)


def ints(name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
    """An input or output of integers."""
    return helper.make_tensor_value_info(name, TensorProto.INT64, shape)
