"""The multilingual engine: Whisper base on CTranslate2, on a CPU or a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ctranslate2
import numpy as np
from tokenizers import Tokenizer

from engines.base import NO_TOKENS, SAMPLE_RATE, EngineError, Hypothesis, Window
from engines.checks import is_silent, nothing_said, refusal
from engines.whisper.checks import Judgement, judge
from engines.whisper.features import HOP, MelSpectrogram
from engines.whisper.languages import AUTO, whisper_code

FULL_FRAMES = 3000
_MARGIN_SECONDS = 1.0
_MIN_CONTEXT_SECONDS = 4.0
_MAX_TOKENS = 220
_TOKENS_PER_SECOND = 25
"""Generous: scripts that Whisper spells in bytes take three tokens a letter."""


@dataclass(frozen=True, slots=True, eq=False)
class _Attempt:
    text: str
    tokens: list[int]
    language: str
    mean_logprob: float
    no_speech: float
    judgement: Judgement


class WhisperEngine:
    """Decodes windows in about a hundred languages.

    The encoder sees a window's own length and a little silence instead of 30 s. A window whose text loops is decoded
    once more with the full context; if that does not help either, the answer is no text.
    """

    def __init__(
        self,
        model_dir: Path,
        *,
        device: str = "cpu",
        device_id: int = 0,
        compute_type: str = "",
        threads: int = 1,
        workers: int = 1,
    ) -> None:
        """Loads a CTranslate2 folder.

        Args:
            model_dir: folder with ``model.bin``, ``config.json``, ``vocabulary.json`` and ``tokenizer.json``.
            device: ``cpu`` or ``cuda``.
            device_id: which GPU.
            compute_type: such as ``int8``, ``float16``; empty takes the best one for the device.
            threads: threads of one call on a CPU.
            workers: calls at once on a CPU.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: the device cannot do the compute type, or there is no such device.
        """
        for name in ("model.bin", "config.json", "vocabulary.json", "tokenizer.json"):
            if not (model_dir / name).is_file():
                raise FileNotFoundError(f"{model_dir / name} is missing: run `make setup`")
        self._model = ctranslate2.models.Whisper(
            str(model_dir),
            device=device,
            device_index=device_id,
            compute_type=compute_type or ("float16" if device == "cuda" else "int8"),
            intra_threads=threads,
            inter_threads=workers,
        )
        self._tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        self._features = MelSpectrogram(self._model.n_mels)
        self._start = self._id("startoftranscript")
        self._task = [self._id("transcribe"), self._id("notimestamps")]
        self._end = self._id("endoftext")

    def transcribe(self, windows: Sequence[Window]) -> list[Hypothesis | EngineError]:
        """Decodes each window; see `Engine.transcribe`. Drafts are not used."""
        results: list[Hypothesis | EngineError | None] = [_refusal(window) for window in windows]
        groups: dict[int, list[int]] = {}
        for index, window in enumerate(windows):
            if results[index] is None and is_silent(window):
                results[index] = nothing_said(window.language)
            elif results[index] is None:
                groups.setdefault(_context(len(window.audio)), []).append(index)
        doubtful: list[int] = []
        for frames, indices in groups.items():
            for index, attempt in zip(indices, self._attempt([windows[i] for i in indices], frames), strict=True):
                results[index] = _hypothesis(attempt, tries=1)
                if attempt.judgement.retry and frames < FULL_FRAMES:
                    doubtful.append(index)
        again = self._attempt([windows[index] for index in doubtful], FULL_FRAMES) if doubtful else []
        for index, attempt in zip(doubtful, again, strict=True):
            results[index] = _hypothesis(attempt, tries=2)
        return [result for result in results if result is not None]

    def close(self) -> None:
        """Frees the model."""
        self._model.unload_model()

    def _attempt(self, windows: Sequence[Window], frames: int) -> list[_Attempt]:
        """Decodes windows in a context of `frames` frames of 10 ms each."""
        features = np.stack([self._features(window.audio, frames) for window in windows])
        encoded = self._model.encode(ctranslate2.StorageView.from_array(features))
        languages = self._languages(windows, encoded)
        prompts = [[self._start, self._id(code), *self._task] for code in languages]
        outputs = self._model.generate(
            encoded,
            prompts,
            beam_size=1,
            max_length=min(_MAX_TOKENS, _TOKENS_PER_SECOND * frames // 100),
            return_scores=True,
            return_no_speech_prob=True,
        )
        return [
            self._read(window, language, output)
            for window, language, output in zip(windows, languages, outputs, strict=True)
        ]

    def _id(self, mark: str) -> int:
        found: int | None = self._tokenizer.token_to_id(f"<|{mark}|>")
        if found is None:
            raise ValueError(f"the tokenizer has no <|{mark}|>: this is not a multilingual Whisper model")
        return found

    def _languages(self, windows: Sequence[Window], encoded: ctranslate2.StorageView) -> list[str]:
        codes = [whisper_code(window.language) or "" for window in windows]
        if AUTO not in codes:
            return codes
        detected = [ranking[0][0].strip("<|>") for ranking in self._model.detect_language(encoded)]
        return [found if code == AUTO else code for code, found in zip(codes, detected, strict=True)]

    def _read(self, window: Window, language: str, output: ctranslate2.models.WhisperGenerationResult) -> _Attempt:
        tokens = [token for token in output.sequences_ids[0] if token < self._end]
        text = self._tokenizer.decode(tokens).strip()
        seconds = len(window.audio) / SAMPLE_RATE
        judgement = judge(text, seconds, output.scores[0], output.no_speech_prob)
        return _Attempt(text, tokens, language, output.scores[0], output.no_speech_prob, judgement)


def _hypothesis(attempt: _Attempt, tries: int) -> Hypothesis:
    made_up = attempt.judgement.made_up
    stats = {
        "no_speech": attempt.no_speech,
        "mean_logprob": attempt.mean_logprob,
        "tries": float(tries),
        "made_up": float(made_up),
    }
    if made_up:
        return Hypothesis("", NO_TOKENS, 0.0, attempt.language, stats=stats)
    tokens = np.array(attempt.tokens, np.int32)
    confidence = math.exp(min(attempt.mean_logprob, 0.0)) if attempt.text else 0.0
    return Hypothesis(attempt.text, tokens, confidence, attempt.language, stats=stats)


def _refusal(window: Window) -> EngineError | None:
    if whisper_code(window.language) is None:
        return EngineError(f"language {window.language!r} is not known: send a code such as es, or auto")
    return refusal(window)


def _context(samples: int) -> int:
    """Frames of context for a window: its length and a margin, up to whole seconds. Its neighbours do not matter."""
    seconds = max(_MIN_CONTEXT_SECONDS, math.ceil(samples / SAMPLE_RATE + _MARGIN_SECONDS))
    return min(FULL_FRAMES, int(seconds * SAMPLE_RATE) // HOP)
