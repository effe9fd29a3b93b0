"""The Silero voice activity network, rebuilt for batches.

The packaged graph convolves each window by itself, in matrices four columns wide. Here the same float32 weights stand
in a graph of plain matrix products whose rows are frames of all windows of all streams, with the LSTM over time at the
end; `docs/decisions/vad.md` has the figures. The layers are those of the packaged graph:

    576 samples, 64 reflected -> 4 frames of 256 -> magnitudes of 129 bins -> 4 convolutions over time (width 3) with
    ReLU, to 128 features -> LSTM -> ReLU -> one weight per feature -> sigmoid
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from server.audio.onnx_wire import GraphWriter, read_weights

WINDOW: Final = 512
"""Samples that one probability is for: 32 ms at 16 kHz."""
CONTEXT: Final = 64
"""Samples before a window that the network hears again."""
HIDDEN: Final = 128
"""Size of the LSTM's hidden and cell state."""

_FRAME: Final = 256
_BINS: Final = 129
_SHAPES: Final = {
    "stft.forward_basis_buffer": (2 * _BINS, 1, _FRAME),
    "encoder.0.reparam_conv.weight": (128, _BINS, 3),
    "encoder.1.reparam_conv.weight": (64, 128, 3),
    "encoder.2.reparam_conv.weight": (64, 64, 3),
    "encoder.3.reparam_conv.weight": (128, 64, 3),
    "encoder.0.reparam_conv.bias": (128,),
    "encoder.1.reparam_conv.bias": (64,),
    "encoder.2.reparam_conv.bias": (64,),
    "encoder.3.reparam_conv.bias": (128,),
    "decoder.rnn.weight_ih": (4 * HIDDEN, HIDDEN),
    "decoder.rnn.weight_hh": (4 * HIDDEN, HIDDEN),
    "decoder.rnn.bias_ih": (4 * HIDDEN,),
    "decoder.rnn.bias_hh": (4 * HIDDEN,),
    "decoder.decoder.2.weight": (1, HIDDEN, 1),
    "decoder.decoder.2.bias": (1,),
}

_Weights = dict[str, NDArray[np.float32]]


def batched_graph(packaged: bytes) -> bytes:
    """Returns an ONNX model for T steps of B streams with the weights of ``silero_vad_16k_op15.onnx``.

    Inputs: ``windows`` int16 [T, B, 576], each 64 samples of context and 512 new ones; ``hidden`` and ``cell`` float32
    [1, B, 128]. Outputs: ``speech`` float32 [T, B]; ``next_hidden`` and ``next_cell`` [1, B, 128].

    Raises:
        ValueError: the bytes are not that model.
    """
    weights = _silero_weights(packaged)
    graph = GraphWriter()
    windows = graph.input("windows", np.int16, ["steps", "streams", CONTEXT + WINDOW])
    for name in ("hidden", "cell"):
        graph.input(name, np.float32, [1, "streams", HIDDEN])
    features = _encoder(graph, weights, _magnitudes(graph, weights, windows))
    steps_streams = _columns(graph, graph.node("Shape", windows), 0, 2, axis=0)
    shape = graph.node("Concat", steps_streams, graph.constant([HIDDEN]), axis=0)
    _decoder(graph, weights, graph.node("Reshape", features, shape), steps_streams)
    graph.output("speech", np.float32, ["steps", "streams"])
    for name in ("next_hidden", "next_cell"):
        graph.output(name, np.float32, [1, "streams", HIDDEN])
    return graph.serialize()


def _silero_weights(packaged: bytes) -> _Weights:
    found = {name.removeprefix("model."): values for name, values in read_weights(packaged).items()}
    wrong = [name for name, shape in _SHAPES.items() if name not in found or found[name].shape != shape]
    if wrong:
        raise ValueError(
            f"not silero_vad_16k_op15.onnx of silero-vad 6.2: {', '.join(wrong)} missing or of other shape"
        )
    return found


def _magnitudes(graph: GraphWriter, weights: _Weights, windows: str) -> str:
    """Spectral magnitudes of the 4 frames of each window: [windows, 4 * 129]."""
    samples = _rows(graph, graph.node("Cast", windows, to=1), CONTEXT + WINDOW)
    samples = graph.node("Pad", samples, graph.constant([0, 0, 0, _FRAME // 4]), mode="reflect")
    # Frames are half a frame apart: cut into whole frames twice, then put the two rows in turn.
    shape = graph.constant([-1, 2, _FRAME])
    even = graph.node("Reshape", _columns(graph, samples, 0, 2 * _FRAME), shape)
    odd = graph.node("Reshape", _columns(graph, samples, _FRAME // 2, 5 * _FRAME // 2), shape)
    frames = _rows(graph, graph.node("Concat", even, odd, axis=2), _FRAME)
    # Samples are int16 in, -1 to 1 in the model: a power of two in the basis changes no bit.
    basis = weights["stft.forward_basis_buffer"][:, 0].T / np.float32(32768)
    parts = graph.node("MatMul", frames, graph.constant(basis))
    power = graph.node("Mul", parts, parts)
    real, imaginary = _columns(graph, power, 0, _BINS), _columns(graph, power, _BINS, 2 * _BINS)
    return _rows(graph, graph.node("Sqrt", graph.node("Add", real, imaginary)), 4 * _BINS)


def _encoder(graph: GraphWriter, weights: _Weights, magnitudes: str) -> str:
    """The four convolutions, from [windows, 4 * 129] to [windows, 128]."""
    features = _convolution(graph, weights, 0, magnitudes, frames=4, stride=1)
    features = _convolution(graph, weights, 1, features, frames=4, stride=2)
    features = _convolution(graph, weights, 2, features, frames=2, stride=2)
    return _convolution(graph, weights, 3, features, frames=1, stride=1)


def _convolution(graph: GraphWriter, weights: _Weights, layer: int, features: str, *, frames: int, stride: int) -> str:
    """A convolution of width 3 with a frame of zeros at each end, as one product: [windows, frames * channels]."""
    weight = weights[f"encoder.{layer}.reparam_conv.weight"]
    outputs, channels, width = weight.shape
    padded = graph.node("Pad", features, graph.constant([0, channels, 0, channels]))
    taps = [_columns(graph, padded, t * channels, (t + width) * channels) for t in range(0, frames, stride)]
    rows = _rows(graph, graph.node("Concat", *taps, axis=1), width * channels)
    product = graph.node("MatMul", rows, graph.constant(weight.transpose(2, 1, 0).reshape(-1, outputs)))
    total = graph.node("Add", product, graph.constant(weights[f"encoder.{layer}.reparam_conv.bias"]))
    return _rows(graph, graph.node("Relu", total), len(taps) * outputs)


def _decoder(graph: GraphWriter, weights: _Weights, features: str, steps_streams: str) -> None:
    """The LSTM over time and the probability, from [steps, streams, 128]."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    kernel, recurrent, *biases = (_onnx_gates(weights[f"decoder.rnn.{name}"]) for name in names)
    parameters = (kernel[None], recurrent[None], np.concatenate(biases)[None])
    outputs = ["steps_hidden", "next_hidden", "next_cell"]
    constants = [graph.constant(values) for values in parameters]
    graph.node("LSTM", features, *constants, "", "hidden", "cell", outputs=outputs, hidden_size=HIDDEN)
    active = _rows(graph, graph.node("Relu", "steps_hidden"), HIDDEN)
    logit = graph.node("MatMul", active, graph.constant(weights["decoder.decoder.2.weight"][0]))
    logit = graph.node("Add", logit, graph.constant(weights["decoder.decoder.2.bias"]))
    graph.node("Reshape", graph.node("Sigmoid", logit), steps_streams, outputs=["speech"])


def _onnx_gates(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """From PyTorch's order of the gates (input, forget, cell, output) to that of ONNX (input, output, forget, cell)."""
    gate_in, gate_forget, gate_cell, gate_out = np.split(values, 4)
    return np.concatenate([gate_in, gate_out, gate_forget, gate_cell])


def _rows(graph: GraphWriter, values: str, width: int) -> str:
    return graph.node("Reshape", values, graph.constant([-1, width]))


def _columns(graph: GraphWriter, values: str, start: int, stop: int, axis: int = 1) -> str:
    return graph.node("Slice", values, *(graph.constant([bound]) for bound in (start, stop, axis)))
