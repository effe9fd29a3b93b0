"""The English engine: Moonshine tiny on ONNX Runtime, on a CPU or a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.base import SAMPLE_RATE, EngineError, Hypothesis, Window
from engines.checks import is_silent, nothing_said, refusal, without_loop
from engines.moonshine.checks import made_up
from engines.moonshine.graphs import FIRST_KERNEL, FIRST_STRIDE, VOCABULARY
from engines.moonshine.tokenizer import BOS, EOS, Tokenizer
from engines.runtime.greedy import GreedyDecoder, Job, Row, Vocabulary
from engines.runtime.integers import exact_int8
from engines.runtime.sessions import existing, open_session, providers_for

TOKENS_PER_SECOND = 6.5
"""The usual stop for loops; nobody speaks faster."""

_LANGUAGE = "en"


class MoonshineEngine:
    """Decodes English windows.

    On a CPU the windows of a batch are dealt out to `threads` threads, each with its own rows; on a GPU windows of
    equal length are encoded together and all are decoded together.
    """

    def __init__(
        self, model_dir: Path, *, device: str = "cpu", device_id: int = 0, precision: str = "", threads: int = 1
    ):
        """Loads the graphs that `engines.moonshine.convert` wrote.

        Args:
            model_dir: folder with ``encoder.<precision>.onnx``, ``decoder.<precision>.onnx`` and ``tokenizer.bin``.
            device: ``cpu`` or ``cuda``.
            device_id: which GPU.
            precision: ``int8``, ``fp32`` or ``fp16``; empty takes fp16 on a GPU, and on a CPU int8 where its products
                are exact, else fp32.
            threads: windows decoded at once on a CPU.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: an unknown device or precision, or a device that this ONNX Runtime does not have.
        """
        precision = precision or _best_precision(device)
        if precision not in {"int8", "fp32", "fp16"}:
            raise ValueError(f"precision {precision!r} is unknown: use int8, fp32 or fp16")
        providers = providers_for(device, device_id)
        self._on_gpu = device == "cuda"
        self._encoder = open_session(model_dir / f"encoder.{precision}.onnx", providers)
        self._tokenizer = Tokenizer.load(existing(model_dir / "tokenizer.bin"))
        decoder = open_session(model_dir / f"decoder.{precision}.onnx", providers)
        vocabulary = Vocabulary(range(EOS + 1, VOCABULARY), self._tokenizer.find("."))
        self._decoder = GreedyDecoder(decoder, device, vocabulary)
        self._dtype = np.float16 if precision == "fp16" else np.float32
        self._threads = 1 if self._on_gpu else max(threads, 1)
        self._pool = ThreadPoolExecutor(self._threads, "moonshine") if self._threads > 1 else None

    def transcribe(self, windows: Sequence[Window]) -> list[Hypothesis | EngineError]:
        """Decodes each window; see `Engine.transcribe`."""
        results: list[Hypothesis | EngineError | None] = [_refusal(window) for window in windows]
        open_indices = [index for index, result in enumerate(results) if result is None]
        for index in [index for index in open_indices if is_silent(windows[index])]:
            results[index] = nothing_said(_LANGUAGE)
            open_indices.remove(index)
        groups = _deal(open_indices, [len(window.audio) for window in windows], self._threads)
        work = [[windows[index] for index in group] for group in groups]
        done = (
            self._pool.map(self._decode_group, work) if self._pool and len(work) > 1 else map(self._decode_group, work)
        )
        for group, hypotheses in zip(groups, done, strict=True):
            for index, hypothesis in zip(group, hypotheses, strict=True):
                results[index] = hypothesis
        return [result for result in results if result is not None]

    def close(self) -> None:
        """Ends the threads."""
        if self._pool:
            self._pool.shutdown()

    def _decode_group(self, windows: list[Window]) -> list[Hypothesis]:
        crosses = self._encode(windows)
        jobs = [
            Job([BOS], cross, window.draft.tolist(), _limit(window))
            for window, cross in zip(windows, crosses, strict=True)
        ]
        return [self._hypothesis(*pair) for pair in zip(windows, self._decoder.decode(jobs), strict=True)]

    def _encode(self, windows: list[Window]) -> list[NDArray[np.floating]]:
        """Windows are never padded to one another: the stem normalises over time."""
        crosses: dict[int, NDArray[np.floating]] = {}
        by_length: dict[int, list[int]] = {}
        for index, window in enumerate(windows):
            by_length.setdefault(len(window.audio) if self._on_gpu else index, []).append(index)
        for indices in by_length.values():
            audio = np.stack([windows[index].audio for index in indices])
            cut = np.lib.stride_tricks.sliding_window_view(audio, FIRST_KERNEL, axis=1)[:, ::FIRST_STRIDE]
            (cross,) = self._encoder.run(None, {"windows": (cut * np.float32(1 / 32768)).astype(self._dtype)})
            crosses |= {index: cross[:, at] for at, index in enumerate(indices)}
        return [crosses[index] for index in range(len(windows))]

    def _hypothesis(self, window: Window, row: Row) -> Hypothesis:
        spoken = row.tokens if row.ended else without_loop(row.tokens)
        text = self._tokenizer.decode(spoken)
        confidence = float(np.exp(np.log(row.probabilities).mean()))
        seconds = len(window.audio) / SAMPLE_RATE
        no_speech = made_up(text, row.tokens, seconds, confidence, stopped=not row.ended)
        stats = {
            "decoder_passes": float(row.passes),
            "accepted": float(row.confirmed),
            "no_speech": float(no_speech),
        }
        tokens = np.array(row.tokens, np.int32)
        if no_speech:
            return Hypothesis("", tokens, 0.0, _LANGUAGE, stats=stats)
        words = self._tokenizer.word_confidences(spoken, row.probabilities)
        return Hypothesis(text, tokens, confidence, _LANGUAGE, words, stats)


def _refusal(window: Window) -> EngineError | None:
    if window.language.split("-")[0].lower() != _LANGUAGE:
        return EngineError(f"language {window.language!r} is not spoken here: send en")
    return refusal(window)


def _best_precision(device: str) -> str:
    if device == "cuda":
        return "fp16"
    return "int8" if exact_int8() else "fp32"


def _limit(window: Window) -> int:
    return max(1, math.ceil(len(window.audio) / SAMPLE_RATE * TOKENS_PER_SECOND))


def _deal(indices: list[int], lengths: list[int], hands: int) -> list[list[int]]:
    """Deals windows out so that the hands get about the same length of audio; longest first."""
    dealt: list[list[int]] = [[] for _ in range(min(hands, len(indices)))]
    loads = [0] * len(dealt)
    for index in sorted(indices, key=lambda index: -lengths[index]):
        lightest = loads.index(min(loads))
        dealt[lightest].append(index)
        loads[lightest] += lengths[index]
    return dealt
