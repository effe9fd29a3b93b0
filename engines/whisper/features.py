"""Whisper's log-mel spectrogram in NumPy (Radford et al. 2022, section 2.2; `whisper/audio.py` is the reference)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engines.base import SAMPLE_RATE

HOP = 160
"""Samples between frames: 100 frames a second."""

_WINDOW = 400
_BREAK_HZ = 1000.0
_BREAK_MEL = 15.0
_LOG_STEP = np.log(6.4) / 27.0

FloatArray = NDArray[np.float32]


def _hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slaney's scale: linear below 1 kHz, logarithmic above."""
    linear = mel * _BREAK_HZ / _BREAK_MEL
    return np.where(mel < _BREAK_MEL, linear, _BREAK_HZ * np.exp(_LOG_STEP * (mel - _BREAK_MEL)))


def _filters(count: int) -> FloatArray:
    top = _BREAK_MEL + np.log(SAMPLE_RATE / 2 / _BREAK_HZ) / _LOG_STEP
    edges = _hz(np.linspace(0.0, top, count + 2))
    bins = np.fft.rfftfreq(_WINDOW, 1 / SAMPLE_RATE)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    weights = np.maximum(0, np.minimum(rising, falling)) * (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return weights.astype(np.float32)


class MelSpectrogram:
    """Computes log-mel features."""

    def __init__(self, mels: int = 80) -> None:
        self._filters = _filters(mels)
        self._taper = np.hanning(_WINDOW + 1)[:-1].astype(np.float32)

    def __call__(self, audio: NDArray[np.int16], frames: int) -> FloatArray:
        """Features of `audio` followed by silence up to `frames` frames of 10 ms.

        Returns:
            float32, shape (mels, frames).

        Raises:
            ValueError: the audio is longer than `frames`.
        """
        if len(audio) > frames * HOP:
            raise ValueError(f"{len(audio)} samples do not fit into {frames} frames")
        samples = np.zeros(frames * HOP, np.float32)
        samples[: len(audio)] = audio
        padded = np.pad(samples / 32768.0, _WINDOW // 2, mode="reflect")
        slices = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::HOP][:frames]
        power = np.abs(np.fft.rfft(slices * self._taper, axis=-1)).astype(np.float32) ** 2
        mel = np.log10(np.maximum(self._filters @ power.T, 1e-10))
        return np.ascontiguousarray((np.maximum(mel, mel.max() - 8.0) + 4.0) / 4.0, np.float32)
