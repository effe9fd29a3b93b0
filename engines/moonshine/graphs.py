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

import numpy as np
from onnx import TensorProto, helper

from engines.moonshine.weights import Weights
from engines.runtime.builder import GELU_FLOOR, MS, GraphBuilder, Precision, floats, ints

LAYERS = 6
HEADS = 8
HEAD_WIDTH = 36
WIDTH = HEADS * HEAD_WIDTH
VOCABULARY = 32768
FIRST_KERNEL = 127
FIRST_STRIDE = 64
_ROTARY_WIDTH = 32
_POSITIONS = 2048


def build_encoder(encoder: Weights, decoder: Weights, precision: Precision) -> bytes:
    """Serialises the encoder graph, with the decoder's cross-attention projections at its end."""
    b = GraphBuilder(precision, HEADS, HEAD_WIDTH)
    x = _stem(b, encoder)
    start = b.ints(0)
    for layer in range(LAYERS):
        path = f"layers.{layer}"
        h = b.norm(x, encoder.tensors[f"{path}.input_layernorm.weight"], f"{path}.norm1")
        matrices = [encoder.linears[f"{path}.self_attn.{kind}_proj"] for kind in "qkv"]
        q, k, v = b.split(b.linear(h, matrices, f"{path}.qkv"), 3, f"{path}.heads")
        q, k = _rotary(b, q, start, f"{path}.q"), _rotary(b, k, start, f"{path}.k")
        h = b.attention(q, k, v, "", f"{path}.attention")
        x = b.op("Add", x, b.linear(h, [encoder.linears[f"{path}.self_attn.o_proj"]], f"{path}.o"), name=f"{path}.mid")
        h = b.norm(x, encoder.tensors[f"{path}.post_attention_layernorm.weight"], f"{path}.norm2")
        h = b.linear(h, [encoder.linears[f"{path}.mlp.fc1"]], f"{path}.fc1", encoder.tensors[f"{path}.mlp.fc1.bias"])
        h = b.op("Gelu", h, name=f"{path}.gelu", domain=MS)
        bias = encoder.tensors[f"{path}.mlp.fc2.bias"]
        h = b.linear(h, [encoder.linears[f"{path}.mlp.fc2"]], f"{path}.fc2", bias, GELU_FLOOR)
        x = b.op("Add", x, h, name=f"{path}.out")
    x = b.norm(x, encoder.tensors["layer_norm.weight"], "norm")
    pairs = [(layer, kind) for layer in range(LAYERS) for kind in "kv"]
    x = b.linear(x, [decoder.linears[f"layers.{layer}.encoder_attn.{kind}_proj"] for layer, kind in pairs], "cross_kv")
    x = b.op("Reshape", x, b.ints(0, 0, 2 * LAYERS, HEADS, HEAD_WIDTH), name="cross_heads")
    b.op("Transpose", x, name="cross", perm=[2, 0, 3, 1, 4])
    return b.model(
        "moonshine_encoder",
        [floats(b, "windows", ["batch", "steps", FIRST_KERNEL])],
        [floats(b, "cross", [2 * LAYERS, "batch", HEADS, "frames", HEAD_WIDTH])],
    )


def _stem(b: GraphBuilder, encoder: Weights) -> str:
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
    for name, stride, floor in (("conv2", 3, 0.0), ("conv3", 2, GELU_FLOOR)):
        x = b.convolution(x, tensors[f"{name}.weight"], stride, name, bias=tensors[f"{name}.bias"], floor=floor)
        x = b.op("Gelu", x, name=f"{name}.gelu", domain=MS)
    return x


def build_decoder(weights: Weights, precision: Precision) -> bytes:
    """Serialises the decoder graph: some tokens a row in, the arg-max after each wanted one out."""
    b = GraphBuilder(precision, HEADS, HEAD_WIDTH)
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
    inputs = [ints("tokens", ["batch", "step"]), ints("positions", ["batch", "step"])]
    inputs += [ints("slots", ["batch", "step", 2]), ints("wanted", ["reads"])]
    inputs += [floats(b, "self_bias", ["batch", 1, "step", "capacity"])]
    inputs += [floats(b, "cross_bias", ["batch", 1, "step", "frames"])]
    inputs += [floats(b, f"past.{index}", ["batch", "capacity", WIDTH]) for index in cache]
    inputs += [floats(b, f"cross.{index}", ["batch", HEADS, "frames", HEAD_WIDTH]) for index in cache]
    outputs = [ints("next", ["reads"]), helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["reads"])]
    outputs += [floats(b, f"present.{index}", ["batch", "capacity", WIDTH]) for index in cache]
    return b.model("moonshine_decoder", inputs, outputs)


def _decoder_layer(b: GraphBuilder, weights: Weights, layer: int, x: str) -> str:
    path, tensors, linears = f"layers.{layer}", weights.tensors, weights.linears
    keys, values = 2 * layer, 2 * layer + 1
    h = b.norm(x, tensors[f"{path}.input_layernorm.weight"], f"{path}.norm1")
    matrices = [linears[f"{path}.self_attn.{kind}_proj"] for kind in "qkv"]
    q, k, v = b.split(b.linear(h, matrices, f"{path}.qkv"), 3, f"{path}.heads")
    q, k = _rotary(b, q, "positions", f"{path}.q"), _rotary(b, k, "positions", f"{path}.k")
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
    gate = b.op("QuickGelu", gate, name=f"{path}.silu", domain=MS, alpha=1.0)
    h = b.op("Mul", h, gate, name=f"{path}.gated")
    h = b.linear(h, [linears[f"{path}.mlp.fc2"]], f"{path}.fc2", tensors[f"{path}.mlp.fc2.bias"])
    return b.op("Add", x, h, name=f"{path}.out")


def _rotary(b: GraphBuilder, x: str, positions: str, name: str) -> str:
    frequency = 10000.0 ** (-np.arange(0, _ROTARY_WIDTH, 2) / _ROTARY_WIDTH)
    angles = np.outer(np.arange(_POSITIONS), frequency)
    cosines = b.constant("rotary.cos", np.cos(angles).astype(np.float32))
    sines = b.constant("rotary.sin", np.sin(angles).astype(np.float32))
    return b.op(
        "RotaryEmbedding",
        x,
        positions,
        cosines,
        sines,
        name=name,
        domain=MS,
        interleaved=1,
        num_heads=HEADS,
        rotary_embedding_dim=_ROTARY_WIDTH,
    )
