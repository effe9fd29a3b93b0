"""Reads the weights of an ONNX file and writes a small ONNX graph, without the ``onnx`` package.

The gateway rebuilds one model at start (see `server.audio.silero`). That takes a dozen protobuf fields, which is less
than another dependency. Field numbers are those of ``onnx.proto`` (https://github.com/onnx/onnx), IR version 8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_IR_VERSION: Final = 8
_OPSET: Final = 17
_TYPES: Final[dict[np.dtype[np.generic], int]] = {
    np.dtype(np.float32): 1,
    np.dtype(np.int16): 5,
    np.dtype(np.int64): 7,
}

_FIXED_SIZES: Final = {1: 8, 5: 4}
"""Bytes of the wire types of protobuf that have no length of their own."""


def read_weights(model: bytes) -> dict[str, NDArray[np.float32]]:
    """Returns the float32 initializers of an ONNX model by name.

    Raises:
        ValueError: the bytes are no ONNX model.
    """
    weights = {}
    try:
        graph = next(value for number, value in _fields(memoryview(model)) if number == 7)
        for number, tensor in _fields(_message(graph)):
            if number == 5:
                name, values = _tensor(_message(tensor))
                if values is not None:
                    weights[name] = values
    except (StopIteration, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"not an ONNX model: {error}") from error
    return weights


def _tensor(message: memoryview) -> tuple[str, NDArray[np.float32] | None]:
    shape: list[int] = []
    name, kind, raw = "", 0, None
    for number, value in _fields(message):
        if number == 1:
            shape += [value] if isinstance(value, int) else _varints(value)
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 8:
            name = bytes(_message(value)).decode()
        elif number == 9:
            raw = _message(value)
    if kind != 1 or raw is None:
        return name, None
    return name, np.frombuffer(raw, "<f4").astype(np.float32).reshape(shape)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire not in _FIXED_SIZES and wire != 2:
            raise ValueError(f"field of unknown kind {wire}")
        size, at = _varint(message, at) if wire == 2 else (_FIXED_SIZES[wire], at)
        if at + size > len(message):
            raise ValueError("cut short")
        yield number, message[at : at + size]
        at += size


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise TypeError("a number where a message belongs")
    return value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _varints(packed: memoryview) -> list[int]:
    values, at = [], 0
    while at < len(packed):
        value, at = _varint(packed, at)
        values.append(value)
    return values


class GraphWriter:
    """Collects the nodes of a graph; `serialize` gives the bytes of the model."""

    def __init__(self) -> None:
        self._body = bytearray()
        self._names = 0

    def constant(self, values: NDArray[np.float32] | Sequence[int]) -> str:
        """Adds a weight, or a list of int64 such as a shape, and returns its name."""
        array = np.ascontiguousarray(values, None if isinstance(values, np.ndarray) else np.int64)
        name = self._fresh()
        dims = b"".join(_int(1, size) for size in array.shape)
        tensor = dims + _int(2, _TYPES[array.dtype]) + _bytes(8, name.encode())
        self._body += _bytes(5, tensor + _bytes(9, array.astype(array.dtype.newbyteorder("<")).tobytes()))
        return name

    def node(self, operator: str, *inputs: str, outputs: int | Sequence[str] = 1, **attributes: int | str) -> str:
        """Adds one node and returns the name of its first output.

        Args:
            operator: its type, such as ``MatMul``.
            inputs: names; an empty one leaves an optional input out.
            outputs: the names of the outputs, or how many to name here.
            attributes: numbers and strings.
        """
        names = [self._fresh() for _ in range(outputs)] if isinstance(outputs, int) else list(outputs)
        node = b"".join(_bytes(1, name.encode()) for name in inputs)
        node += b"".join(_bytes(2, name.encode()) for name in names)
        node += _bytes(4, operator.encode())
        for key, value in attributes.items():
            typed = _int(3, value) + _int(20, 2) if isinstance(value, int) else _bytes(4, value.encode()) + _int(20, 3)
            node += _bytes(5, _bytes(1, key.encode()) + typed)
        self._body += _bytes(1, node)
        return names[0]

    def input(self, name: str, dtype: type[np.generic], shape: Sequence[int | str]) -> str:
        """Declares an input; a dimension that is a name may have any size. Returns its name."""
        self._body += _bytes(11, _value_info(name, dtype, shape))
        return name

    def output(self, name: str, dtype: type[np.generic], shape: Sequence[int | str]) -> None:
        """Declares an output, the name of which some node gives."""
        self._body += _bytes(12, _value_info(name, dtype, shape))

    def serialize(self) -> bytes:
        """Returns the model as the bytes of an ONNX file."""
        graph = _bytes(2, b"graph") + bytes(self._body)
        return _int(1, _IR_VERSION) + _bytes(7, graph) + _bytes(8, _bytes(1, b"") + _int(2, _OPSET))

    def _fresh(self) -> str:
        self._names += 1
        return f"value_{self._names}"


def _value_info(name: str, dtype: type[np.generic], shape: Sequence[int | str]) -> bytes:
    sizes = [_int(1, size) if isinstance(size, int) else _bytes(2, size.encode()) for size in shape]
    dimensions = b"".join(_bytes(1, size) for size in sizes)
    tensor = _int(1, _TYPES[np.dtype(dtype)]) + _bytes(2, dimensions)
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, tensor))


def _bytes(number: int, payload: bytes) -> bytes:
    return _number(number << 3 | 2) + _number(len(payload)) + payload


def _int(number: int, value: int) -> bytes:
    return _number(number << 3) + _number(value)


def _number(value: int) -> bytes:
    # Negative numbers are written as their 64-bit two's complement.
    value &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
