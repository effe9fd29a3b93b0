"""Matrices in eight bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """A quantised matrix: weight = (code - zero) * scale.

    Attributes:
        codes: int8, shape (K, N).
        scales: float32, one for each column, shape (N,).
        zeros: int8, one for each column, shape (N,).
    """

    codes: NDArray[np.int8]
    scales: FloatArray
    zeros: NDArray[np.int8]

    @classmethod
    def quantise(cls, weight: FloatArray) -> Linear:
        """Rounds a float matrix (K, N) to int8, symmetrically, column by column."""
        scales = np.abs(weight).max(axis=0) / np.float32(127)
        codes = np.rint(weight / scales).astype(np.int8)
        return cls(codes, scales.astype(np.float32), np.zeros(weight.shape[1], np.int8))

    @classmethod
    def join(cls, parts: Sequence[Linear]) -> Linear:
        """Matrices with the same input, side by side."""
        codes = np.concatenate([part.codes for part in parts], axis=1)
        scales = np.concatenate([part.scales for part in parts])
        return cls(codes, scales, np.concatenate([part.zeros for part in parts]))

    @property
    def dense(self) -> FloatArray:
        """The float32 matrix, shape (K, N)."""
        return ((self.codes.astype(np.int32) - self.zeros) * self.scales).astype(np.float32)
