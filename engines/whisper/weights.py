"""Reads the weights of a CTranslate2 model file by name.

The format is CTranslate2's version 6 (`python/ctranslate2/specs/model_spec.py`, `_serialize`): version, name and
revision of the specification, then each variable with its name, shape, type and bytes, then names for others.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_VERSION = 6
_TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)

Variables = dict[str, NDArray[np.generic]]


def read(path: Path) -> Variables:
    """All variables of ``model.bin``, each in its own type and shape.

    Raises:
        ValueError: the file is of another version, or ends too early.
    """
    with path.open("rb") as file:
        try:
            return _read(file)
        except struct.error:
            raise ValueError(f"{path} ends in the middle: download it again") from None


def _read(file: BinaryIO) -> Variables:
    version, _, _ = _number(file, "I"), _text(file), _number(file, "I")
    if version != _VERSION:
        raise ValueError(f"this is version {version} of the CTranslate2 format; only {_VERSION} can be read")
    found: Variables = {}
    for _ in range(_number(file, "I")):
        name = _text(file)
        shape = [_number(file, "I") for _ in range(_number(file, "B"))]
        dtype = np.dtype(_TYPES[_number(file, "B")])
        data = file.read(_number(file, "I"))
        if len(data) != dtype.itemsize * int(np.prod(shape)):
            raise ValueError(f"{name} is cut short: download the file again")
        found[name] = np.frombuffer(data, dtype).reshape(shape)
    for _ in range(_number(file, "I")):
        alias, name = _text(file), _text(file)
        found[alias] = found[name]
    return found


def _number(file: BinaryIO, kind: str) -> int:
    (value,) = struct.unpack(f"<{kind}", file.read(struct.calcsize(kind)))
    return int(value)


def _text(file: BinaryIO) -> str:
    return file.read(_number(file, "H")).rstrip(b"\0").decode()
