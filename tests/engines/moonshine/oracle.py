"""Plain greedy decoding, as simple as it can be: no draft, batch or cache; the whole prefix again for each token."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from engines.moonshine.graphs import FIRST_KERNEL, FIRST_STRIDE, LAYERS, WIDTH

_BOS, _EOS = 1, 2
_ROOM = 256


class Oracle:
    def __init__(self, model_dir: Path, precision: str = "int8") -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        paths = [str(model_dir / f"{part}.{precision}.onnx") for part in ("encoder", "decoder")]
        self._encoder, self._decoder = [
            ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in paths
        ]

    def __call__(self, audio: NDArray[np.int16]) -> list[int]:
        cut = np.lib.stride_tricks.sliding_window_view(audio, FIRST_KERNEL)[::FIRST_STRIDE]
        (cross,) = self._encoder.run(None, {"windows": (cut * np.float32(1 / 32768))[None]})
        fixed = {f"cross.{index}": cross[index] for index in range(2 * LAYERS)}
        fixed |= {f"past.{index}": np.zeros((1, _ROOM, WIDTH), np.float32) for index in range(2 * LAYERS)}
        tokens: list[int] = []
        for _ in range(math.ceil(len(audio) / 16000 * 6.5)):
            chosen = self._next([_BOS, *tokens], fixed, cross.shape[3])
            if chosen == _EOS:
                break
            tokens.append(chosen)
        return tokens

    def _next(self, prefix: list[int], fixed: dict[str, NDArray[np.float32]], frames: int) -> int:
        fed = [*prefix, 0] if len(prefix) == 1 else prefix
        positions = np.arange(len(fed))
        inputs = fixed | {
            "tokens": np.array([fed]),
            "positions": positions[None],
            "slots": np.stack([np.zeros_like(positions), positions], axis=-1)[None],
            "wanted": np.array([len(prefix) - 1]),
            "self_bias": np.where(np.arange(_ROOM) <= positions[:, None], 0, -30000).astype(np.float32)[None, None],
            "cross_bias": np.zeros((1, 1, len(fed), frames), np.float32),
        }
        return int(self._decoder.run(["next"], inputs)[0][0])
