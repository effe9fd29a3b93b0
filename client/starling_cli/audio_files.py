"""Audio files as mono `pcm_s16le` in small pieces, whatever they hold."""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from starling_client.settings import MAX_RATE, MIN_RATE

Samples = npt.NDArray[np.int16]

RESAMPLED_RATE = 16000
BLOCK_S = 1.0


class AudioFileError(Exception):
    """The file cannot be read; the text says why and what to do."""


class AudioFile:
    """A file of sound, read piece by piece.

    Channels are averaged. A rate of 8000 to 48000 Hz is kept; any other becomes 16000 Hz.
    """

    def __init__(self, path: Path) -> None:
        """Open the file. Raises AudioFileError."""
        self.path = path
        try:
            self._file: Any = soundfile.SoundFile(path)
        except (soundfile.LibsndfileError, OSError) as error:
            raise AudioFileError(_explain(path, error)) from None
        self.source_rate: int = self._file.samplerate
        self.rate = self.source_rate if MIN_RATE <= self.source_rate <= MAX_RATE else RESAMPLED_RATE
        self.seconds: float = self._file.frames / self.source_rate

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def pieces(self, seconds: float) -> Iterator[Samples]:
        """Yield the samples at `rate` in pieces of `seconds`, the last one as long as it comes out."""
        size = max(1, round(seconds * self.rate))
        rest = np.empty(0, np.int16)
        for block in self._resampled() if self.rate != self.source_rate else self._blocks(round(BLOCK_S * self.rate)):
            rest = np.concatenate((rest, _to_int16(block)))
            whole = len(rest) - len(rest) % size
            yield from rest[:whole].reshape(-1, size)
            rest = rest[whole:]
        if len(rest):
            yield rest

    def _blocks(self, frames: int) -> Iterator[npt.NDArray[Any]]:
        # 16-bit files pass unchanged; everything else goes through floats, which hold 24 bits exactly.
        kind = "int16" if self._file.subtype == "PCM_16" and self._file.channels == 1 else "float32"
        try:
            while len(block := self._file.read(frames, dtype=kind, always_2d=True)):
                yield block[:, 0] if kind == "int16" else block.mean(axis=1)
        except (soundfile.LibsndfileError, OSError) as error:
            raise AudioFileError(_explain(self.path, error)) from None

    def _resampled(self) -> Iterator[npt.NDArray[Any]]:
        from scipy.signal import resample_poly

        common = gcd(self.rate, self.source_rate)
        up, down = self.rate // common, self.source_rate // common
        # Each block is resampled with its neighbours' edges around it, which are longer than the filter, and the
        # middle is taken: the same samples as from the whole file at once.
        margin = down * (-(-20 * max(up, down) // (up * down)) + 1)
        block = down * max(1, round(self.source_rate * BLOCK_S / down))
        before = np.zeros(margin, np.float32)
        pending = np.empty(0, np.float32)
        for piece in self._as_float(block):
            pending = np.concatenate((pending, piece))
            while len(pending) >= block + margin:
                window = np.concatenate((before, pending[: block + margin]))
                yield resample_poly(window, up, down)[margin * up // down : (margin + block) * up // down]
                before = np.concatenate((before, pending[:block]))[-margin:]
                pending = pending[block:]
        if len(pending):
            window = np.concatenate((before, pending, np.zeros(margin, np.float32)))
            count = -(-len(pending) * up // down)
            start = margin * up // down
            yield resample_poly(window, up, down)[start : start + count]

    def _as_float(self, frames: int) -> Iterator[npt.NDArray[np.float32]]:
        for block in self._blocks(frames):
            full_scale = 32768 if block.dtype == np.int16 else 1
            yield (block / np.float32(full_scale)).astype(np.float32)


def _to_int16(block: npt.NDArray[Any]) -> Samples:
    if block.dtype == np.int16:
        return block
    finite = np.nan_to_num(block, posinf=1.0, neginf=-1.0)
    samples: Samples = np.clip(np.rint(finite * 32768), -32768, 32767).astype(np.int16)
    return samples


def _explain(path: Path, error: Exception) -> str:
    if not path.exists():
        return f"{path}: there is no such file"
    if path.is_dir():
        return f"{path} is a folder: name the files in it"
    if isinstance(error, PermissionError):
        return f"{path}: you may not read this file"
    return (
        f"{path} cannot be read as audio ({error}): convert it first, `ffmpeg -i {path.name} -ac 1 -ar 16000 out.wav`"
    )
