"""Builds the ONNX graphs of Whisper's decoder (Radford et al. 2022), so that it can take a draft.

CTranslate2 decodes token by token only, and a partial every third of a second is nearly the same text each time. These
graphs take any number of tokens a row at any position, as those of `engines.moonshine.graphs`, for the same decoding.

Cross: ``encoded`` float [B, S, width] -> ``cross`` [2 * layers, B, heads, S, 64].
Decoder: inputs and outputs as Moonshine's, and ``watched`` float [R]: the probability of the no-speech mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from engines.runtime.builder import GELU_FLOOR, MS, GraphBuilder, floats, ints
from engines.runtime.linear import FloatArray, Linear
from engines.whisper.weights import Variables

_SUPPRESSED = -1e4


@dataclass(frozen=True, slots=True)
class Size:
    """The measures of one Whisper model."""

    layers: int
    heads: int
    width: int

    @classmethod
    def of(cls, variables: Variables) -> Size:
        """Those of the weights given."""
        layers = sum(name.startswith("decoder/") and name.endswith("/ffn/linear_0/weight") for name in variables)
        width = variables["decoder/embeddings/weight"].shape[1]
        return cls(layers, int(variables["decoder/num_heads"]), width)

    @property
    def head_width(self) -> int:
        """Numbers a head has for a key."""
        return self.width // self.heads


class _Weights:
    """The decoder's weights, as matrices (inputs, outputs)."""

    def __init__(self, variables: Variables) -> None:
        self._variables = variables

    def array(self, name: str) -> FloatArray:
        return self._variables[f"decoder/{name}"].astype(np.float32)

    def linear(self, name: str) -> Linear:
        return Linear.quantise(np.ascontiguousarray(self.array(f"{name}/weight").T))

    def bias(self, name: str) -> FloatArray:
        return self.array(f"{name}/bias")


def build_cross(variables: Variables) -> bytes:
    """Serialises the graph that makes keys and values of what the encoder heard."""
    size, weights = Size.of(variables), _Weights(variables)
    b = GraphBuilder("int8", size.heads, size.head_width)
    names = [f"layer_{layer}/attention/linear_1" for layer in range(size.layers)]
    bias = np.concatenate([weights.bias(name) for name in names])
    x = b.linear("encoded", [weights.linear(name) for name in names], "cross_kv", bias)
    x = b.op("Reshape", x, b.ints(0, 0, 2 * size.layers, size.heads, size.head_width), name="cross_heads")
    b.op("Transpose", x, name="cross", perm=[2, 0, 3, 1, 4])
    return b.model(
        "whisper_cross",
        [floats(b, "encoded", ["batch", "frames", size.width])],
        [floats(b, "cross", [2 * size.layers, "batch", size.heads, "frames", size.head_width])],
    )


def build_decoder(variables: Variables, suppressed: Sequence[int], watched: int) -> bytes:
    """Serialises the decoder graph. The tokens in `suppressed` are never chosen; `watched` is the no-speech mark."""
    size, weights = Size.of(variables), _Weights(variables)
    b = GraphBuilder("int8", size.heads, size.head_width)
    x = _embedding(b, variables)
    for layer in range(size.layers):
        x = _layer(b, weights, layer, x)
    x = b.norm(x, weights.array("layer_norm/gamma"), "norm", weights.array("layer_norm/beta"))
    x = b.op("Reshape", x, b.ints(-1, size.width), name="flat")
    x = b.op("Gather", x, "wanted", name="read")
    vocabulary = weights.array("projection/weight")
    bias = np.zeros(len(vocabulary), np.float32)
    bias[[token for token in suppressed if token != watched]] = _SUPPRESSED
    logits = b.linear(x, [Linear.quantise(np.ascontiguousarray(vocabulary.T))], "logits", bias)
    b.op("ArgMax", logits, name="next", axis=-1, keepdims=0)
    probabilities = b.op("Softmax", logits, name="probabilities", axis=-1)
    b.op("ReduceMax", probabilities, b.ints(-1), name="probability", keepdims=0)
    column = b.op("Gather", probabilities, b.ints(watched), name="watched.column", axis=1)
    b.op("Squeeze", column, b.ints(1), name="watched")
    cache = range(2 * size.layers)
    inputs = [ints("tokens", ["batch", "step"]), ints("positions", ["batch", "step"])]
    inputs += [ints("slots", ["batch", "step", 2]), ints("wanted", ["reads"])]
    inputs += [floats(b, "self_bias", ["batch", 1, "step", "capacity"])]
    inputs += [floats(b, "cross_bias", ["batch", 1, "step", "frames"])]
    inputs += [floats(b, f"past.{index}", ["batch", "capacity", size.width]) for index in cache]
    inputs += [floats(b, f"cross.{index}", ["batch", size.heads, "frames", size.head_width]) for index in cache]
    read = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["reads"]) for name in ("probability", "watched")]
    outputs = [ints("next", ["reads"]), *read]
    outputs += [floats(b, f"present.{index}", ["batch", "capacity", size.width]) for index in cache]
    return b.model("whisper_decoder", inputs, outputs)


def _embedding(b: GraphBuilder, variables: Variables) -> str:
    """Tokens and positions to vectors. The weights are halves, and stay so in the file."""
    rows: NDArray[np.generic] = variables["decoder/embeddings/weight"]
    x = b.op("Gather", b.constant("embedding", rows), "tokens", name="embed.half")
    x = b.op("Cast", x, name="embed", to=TensorProto.FLOAT)
    places = b.constant("places", variables["decoder/position_encodings/encodings"].astype(np.float32))
    return b.op("Add", x, b.op("Gather", places, "positions", name="place"), name="placed")


def _layer(b: GraphBuilder, weights: _Weights, layer: int, x: str) -> str:
    path = f"layer_{layer}"
    keys, values = 2 * layer, 2 * layer + 1

    def norm(part: str, x: str) -> str:
        name = f"{path}/{part}/layer_norm"
        return b.norm(x, weights.array(f"{name}/gamma"), name, weights.array(f"{name}/beta"))

    def linear(part: str, x: str, floor: float = 0.0) -> str:
        name = f"{path}/{part}"
        return b.linear(x, [weights.linear(name)], name, weights.bias(name), floor)

    q, k, v = b.split(linear("self_attention/linear_0", norm("self_attention", x)), 3, f"{path}/heads")
    k = b.op("ScatterND", f"past.{keys}", "slots", k, name=f"present.{keys}")
    v = b.op("ScatterND", f"past.{values}", "slots", v, name=f"present.{values}")
    h = b.attention(q, k, v, "self_bias", f"{path}/self")
    x = b.op("Add", x, linear("self_attention/linear_1", h), name=f"{path}/mid1")
    q = linear("attention/linear_0", norm("attention", x))
    h = b.attention(q, f"cross.{keys}", f"cross.{values}", "cross_bias", f"{path}/cross")
    x = b.op("Add", x, linear("attention/linear_2", h), name=f"{path}/mid2")
    h = b.op("Gelu", linear("ffn/linear_0", norm("ffn", x)), name=f"{path}/gelu", domain=MS)
    return b.op("Add", x, linear("ffn/linear_1", h, GELU_FLOOR), name=f"{path}/out")
