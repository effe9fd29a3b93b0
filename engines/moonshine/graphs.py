"""Builds the two ONNX graphs that the engine runs, from the packaged weights.

The network is Moonshine tiny (Jeffries et al. 2024, "Moonshine: Speech Recognition for Live Transcription and Voice
Commands"). Against the packaged export: no `If`, the cross-attention keys and values are computed once in the encoder
graph, the decoder takes any number of tokens a row at any position, and only the wanted positions reach the vocabulary.

Encoder: ``windows`` float [B, T, 127] (127 samples every 64) -> ``cross`` [12, B, 8, S, 36] (keys and values of the 6
layers, alternating).
Decoder: ``tokens``, ``positions`` int64 [B, T], ``slots`` int64 [B, T, 2] (row and cache column a token writes),
``self_bias`` [B, 1, T, C], ``cross_bias`` [B, 1, T, S], ``wanted`` int64 [R] (flat token indices to read out),
``past.0..11`` [B, C, 288], ``cross.0..11`` [B, 8, S, 36] -> ``next`` int64 [R], ``probability`` float [R],
``present.0..11`` [B, C, 288].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engines.moonshine.weights import FloatArray, Linear, Weights

Precision = Literal["fp32", "fp16", "int8"]

LAYERS = 6
HEADS = 8
HEAD_WIDTH = 36
WIDTH = HEADS * HEAD_WIDTH
VOCABULARY = 32768
FIRST_KERNEL = 127
FIRST_STRIDE = 64
_ROTARY_WIDTH = 32
_POSITIONS = 2048
_GELU_FLOOR = -0.17
_MS = "com.microsoft"


@dataclass
class _Builder:
    """Collects nodes and constants of one graph; every method returns the name of what it made."""

    precision: Precision
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    @property
    def float_type(self) -> int:
        return int(TensorProto.FLOAT16 if self.precision == "fp16" else TensorProto.FLOAT)

    def op(self, kind: str, *inputs: str, name: str, outputs: int = 1, domain: str = "", **attributes: Any) -> str:
        names = [name] if outputs == 1 else [f"{name}.{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=name, domain=domain, **attributes))
        return names[0]

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        if name not in self.constants:
            if value.dtype == np.float32 and self.precision == "fp16":
                value = value.astype(np.float16)
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def ints(self, *values: int) -> str:
        return self.constant("ints." + "_".join(map(str, values)), np.array(values, np.int64))

    def integer(self, value: int) -> str:
        return self.constant(f"integer.{value}", np.array(value, np.int64))

    def number(self, value: float) -> str:
        return self.constant(f"number.{value:.6g}", np.array(value, np.float32))

    def norm(self, x: str, weight: FloatArray, name: str) -> str:
        return self.op("LayerNormalization", x, self.constant(f"{name}.weight", weight), name=name, epsilon=1e-5)

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
        product = self.op("MatMulIntegerToFloat", *inputs, name=f"{name}.integers", domain=_MS)
        return self.op("Mul", product, size, name=f"{name}.matmul")

    def rotary(self, x: str, positions: str, name: str) -> str:
        frequency = 10000.0 ** (-np.arange(0, _ROTARY_WIDTH, 2) / _ROTARY_WIDTH)
        angles = np.outer(np.arange(_POSITIONS), frequency)
        cosines = self.constant("rotary.cos", np.cos(angles).astype(np.float32))
        sines = self.constant("rotary.sin", np.sin(angles).astype(np.float32))
        return self.op(
            "RotaryEmbedding",
            x,
            positions,
            cosines,
            sines,
            name=name,
            domain=_MS,
            interleaved=1,
            num_heads=HEADS,
            rotary_embedding_dim=_ROTARY_WIDTH,
        )

    def attention(self, query: str, key: str, value: str, bias: str, name: str) -> str:
        inputs = (query, key, value) if not bias else (query, key, value, "", "", bias)
        return self.op("MultiHeadAttention", *inputs, name=name, domain=_MS, num_heads=HEADS, scale=HEAD_WIDTH**-0.5)

    def split(self, x: str, parts: int, name: str) -> list[str]:
        self.op("Split", x, name=name, outputs=parts, axis=-1, num_outputs=parts)
        return [f"{name}.{index}" for index in range(parts)]

    def model(self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> bytes:
        graph = helper.make_graph(self.nodes, name, inputs, outputs, list(self.constants.values()))
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(_MS, 1)]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="starling")
        onnx.checker.check_model(made)
        return bytes(made.SerializeToString())


def _floats(builder: _Builder, name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, builder.float_type, shape)


def _ints(name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT64, shape)


def build_encoder(encoder: Weights, decoder: Weights, precision: Precision) -> bytes:
    """Serialises the encoder graph, with the decoder's cross-attention projections at its end."""
    b = _Builder(precision)
    x = _stem(b, encoder)
    start = b.ints(0)
    for layer in range(LAYERS):
        path = f"layers.{layer}"
        h = b.norm(x, encoder.tensors[f"{path}.input_layernorm.weight"], f"{path}.norm1")
        matrices = [encoder.linears[f"{path}.self_attn.{kind}_proj"] for kind in "qkv"]
        q, k, v = b.split(b.linear(h, matrices, f"{path}.qkv"), 3, f"{path}.heads")
        q, k = b.rotary(q, start, f"{path}.q"), b.rotary(k, start, f"{path}.k")
        h = b.attention(q, k, v, "", f"{path}.attention")
        x = b.op("Add", x, b.linear(h, [encoder.linears[f"{path}.self_attn.o_proj"]], f"{path}.o"), name=f"{path}.mid")
        h = b.norm(x, encoder.tensors[f"{path}.post_attention_layernorm.weight"], f"{path}.norm2")
        h = b.linear(h, [encoder.linears[f"{path}.mlp.fc1"]], f"{path}.fc1", encoder.tensors[f"{path}.mlp.fc1.bias"])
        h = b.op("Gelu", h, name=f"{path}.gelu", domain=_MS)
        bias = encoder.tensors[f"{path}.mlp.fc2.bias"]
        h = b.linear(h, [encoder.linears[f"{path}.mlp.fc2"]], f"{path}.fc2", bias, _GELU_FLOOR)
        x = b.op("Add", x, h, name=f"{path}.out")
    x = b.norm(x, encoder.tensors["layer_norm.weight"], "norm")
    pairs = [(layer, kind) for layer in range(LAYERS) for kind in "kv"]
    x = b.linear(x, [decoder.linears[f"layers.{layer}.encoder_attn.{kind}_proj"] for layer, kind in pairs], "cross_kv")
    x = b.op("Reshape", x, b.ints(0, 0, 2 * LAYERS, HEADS, HEAD_WIDTH), name="cross_heads")
    b.op("Transpose", x, name="cross", perm=[2, 0, 3, 1, 4])
    return b.model(
        "moonshine_encoder",
        [_floats(b, "windows", ["batch", "steps", FIRST_KERNEL])],
        [_floats(b, "cross", [2 * LAYERS, "batch", HEADS, "frames", HEAD_WIDTH])],
    )


def _stem(b: _Builder, encoder: Weights) -> str:
    """Three convolutions over frames in rows; the first one's windows come ready cut."""
    tensors = encoder.tensors
    first = tensors["conv1.weight"][:, 0, :].T
    x = b.op("MatMul", "windows", b.constant("conv1.weight", first), name="conv1")
    x = b.op("Tanh", x, name="tanh")
    flat = b.op("Reshape", x, b.ints(0, 1, -1), name="group")
    ones, zeros = b.constant("group.one", np.ones(1, np.float32)), b.constant("group.zero", np.zeros(1, np.float32))
    flat = b.op("InstanceNormalization", flat, ones, zeros, name="group_norm", epsilon=1e-5)
    x = b.op("Reshape", flat, b.ints(0, -1, WIDTH), name="ungroup")
    x = b.op("Mul", x, b.constant("group.weight", tensors["groupnorm.weight"].ravel()), name="group_scale")
    x = b.op("Add", x, b.constant("group.bias", tensors["groupnorm.bias"].ravel()), name="group_shift")
    for name, stride, floor in (("conv2", 3, 0.0), ("conv3", 2, _GELU_FLOOR)):
        x = b.convolution(x, tensors[f"{name}.weight"], stride, name, bias=tensors[f"{name}.bias"], floor=floor)
        x = b.op("Gelu", x, name=f"{name}.gelu", domain=_MS)
    return x


def build_decoder(weights: Weights, precision: Precision) -> bytes:
    """Serialises the decoder graph: some tokens a row in, the arg-max after each wanted one out."""
    b = _Builder(precision)
    embedding = weights.linears["embed_tokens"].dense
    x = b.op("Gather", b.constant("embedding", embedding), "tokens", name="embed")
    for layer in range(LAYERS):
        x = _decoder_layer(b, weights, layer, x)
    x = b.norm(x, weights.tensors["norm.weight"], "norm")
    x = b.op("Reshape", x, b.ints(-1, WIDTH), name="flat")
    x = b.op("Gather", x, "wanted", name="read")
    logits = b.linear(x, [weights.linears["proj_out"]], "logits")
    if precision == "fp16":
        logits = b.op("Cast", logits, name="logits32", to=TensorProto.FLOAT)
    b.op("ArgMax", logits, name="next", axis=-1, keepdims=0)
    probabilities = b.op("Softmax", logits, name="probabilities", axis=-1)
    b.op("ReduceMax", probabilities, b.ints(-1), name="probability", keepdims=0)
    cache = range(2 * LAYERS)
    inputs = [_ints("tokens", ["batch", "step"]), _ints("positions", ["batch", "step"])]
    inputs += [_ints("slots", ["batch", "step", 2]), _ints("wanted", ["reads"])]
    inputs += [_floats(b, "self_bias", ["batch", 1, "step", "capacity"])]
    inputs += [_floats(b, "cross_bias", ["batch", 1, "step", "frames"])]
    inputs += [_floats(b, f"past.{index}", ["batch", "capacity", WIDTH]) for index in cache]
    inputs += [_floats(b, f"cross.{index}", ["batch", HEADS, "frames", HEAD_WIDTH]) for index in cache]
    outputs = [_ints("next", ["reads"]), helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["reads"])]
    outputs += [_floats(b, f"present.{index}", ["batch", "capacity", WIDTH]) for index in cache]
    return b.model("moonshine_decoder", inputs, outputs)


def _decoder_layer(b: _Builder, weights: Weights, layer: int, x: str) -> str:
    path, tensors, linears = f"layers.{layer}", weights.tensors, weights.linears
    keys, values = 2 * layer, 2 * layer + 1
    h = b.norm(x, tensors[f"{path}.input_layernorm.weight"], f"{path}.norm1")
    matrices = [linears[f"{path}.self_attn.{kind}_proj"] for kind in "qkv"]
    q, k, v = b.split(b.linear(h, matrices, f"{path}.qkv"), 3, f"{path}.heads")
    q, k = b.rotary(q, "positions", f"{path}.q"), b.rotary(k, "positions", f"{path}.k")
    k = b.op("ScatterND", f"past.{keys}", "slots", k, name=f"present.{keys}")
    v = b.op("ScatterND", f"past.{values}", "slots", v, name=f"present.{values}")
    h = b.attention(q, k, v, "self_bias", f"{path}.attention")
    x = b.op("Add", x, b.linear(h, [linears[f"{path}.self_attn.o_proj"]], f"{path}.o"), name=f"{path}.mid1")
    h = b.norm(x, tensors[f"{path}.post_attention_layernorm.weight"], f"{path}.norm2")
    q = b.linear(h, [linears[f"{path}.encoder_attn.q_proj"]], f"{path}.cross_q")
    h = b.attention(q, f"cross.{keys}", f"cross.{values}", "cross_bias", f"{path}.cross_attention")
    x = b.op("Add", x, b.linear(h, [linears[f"{path}.encoder_attn.o_proj"]], f"{path}.cross_o"), name=f"{path}.mid2")
    h = b.norm(x, tensors[f"{path}.final_layernorm.weight"], f"{path}.norm3")
    h = b.linear(h, [linears[f"{path}.mlp.fc1"]], f"{path}.fc1", tensors[f"{path}.mlp.fc1.bias"])
    h, gate = b.split(h, 2, f"{path}.halves")
    gate = b.op("QuickGelu", gate, name=f"{path}.silu", domain=_MS, alpha=1.0)
    h = b.op("Mul", h, gate, name=f"{path}.gated")
    h = b.linear(h, [linears[f"{path}.mlp.fc2"]], f"{path}.fc2", tensors[f"{path}.mlp.fc2.bias"])
    return b.op("Add", x, h, name=f"{path}.out")
