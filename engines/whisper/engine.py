"""The multilingual engine: Whisper base on CTranslate2, on a CPU or a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ctranslate2
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from engines.base import NO_TOKENS, SAMPLE_RATE, EngineError, Hypothesis, Window
from engines.checks import is_silent, nothing_said, refusal, without_loop
from engines.runtime.integers import exact_int8
from engines.whisper.checks import Judgement, judge
from engines.whisper.decoders import Decoded, Decoder, DraftedDecoder, PlainDecoder
from engines.whisper.features import HOP, MelSpectrogram
from engines.whisper.languages import AUTO, whisper_code

FULL_FRAMES = 3000
MAX_TRIES = 3
_MORE_FRAMES = 300
_MARGIN_SECONDS = 1.0
_MIN_CONTEXT_SECONDS = 4.0
_HALF_LETTER = "\ufffd"
"""What a piece decodes to that holds only some of a letter's bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class _Attempt:
    text: str
    decoded: Decoded
    language: str
    judgement: Judgement


class WhisperEngine:
    """Decodes windows in about a hundred languages.

    The encoder sees a window's own length and a little silence instead of 30 s. On a CPU the decoder takes drafts. A
    window whose text loops is decoded once more with the full context; if that does not help either, the answer is no
    text.
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
            model_dir: folder with ``model.bin``, ``config.json``, ``vocabulary.json`` and ``tokenizer.json``, and for
                drafts on a CPU what `engines.whisper.convert` adds to them.
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
        words, guess = range(self._id("endoftext")), self._tokenizer.encode(".", add_special_tokens=False).ids[0]
        self._decoder: Decoder = (
            DraftedDecoder(model_dir, words, guess, threads)
            if device == "cpu" and exact_int8() and DraftedDecoder.is_in(model_dir)
            else PlainDecoder(self._model, words)
        )

    def transcribe(self, windows: Sequence[Window]) -> list[Hypothesis | EngineError]:
        """Decodes each window; see `Engine.transcribe`."""
        results: list[Hypothesis | EngineError | None] = [_refusal(window) for window in windows]
        groups: dict[int, list[int]] = {}
        for index, window in enumerate(windows):
            if results[index] is None and is_silent(window):
                results[index] = nothing_said(window.language)
            elif results[index] is None:
                groups.setdefault(_context(len(window.audio)), []).append(index)
        for tries in range(1, MAX_TRIES + 1):
            doubtful: dict[int, list[int]] = {}
            for frames, indices in groups.items():
                for index, attempt in zip(indices, self._attempt([windows[i] for i in indices], frames), strict=True):
                    results[index] = self._hypothesis(attempt, tries)
                    if attempt.judgement.retry and frames < FULL_FRAMES and not windows[index].is_partial:
                        doubtful.setdefault(_wider(frames, tries), []).append(index)
            groups = doubtful
        return [result for result in results if result is not None]

    def close(self) -> None:
        """Frees the model."""
        self._decoder.close()
        self._model.unload_model()

    def _attempt(self, windows: Sequence[Window], frames: int) -> list[_Attempt]:
        """Decodes windows in a context of `frames` frames of 10 ms each."""
        features = np.stack([self._features(window.audio, frames) for window in windows])
        encoded = self._model.encode(ctranslate2.StorageView.from_array(features))
        languages = self._languages(windows, encoded)
        prompts = [[self._start, self._id(code), *self._task] for code in languages]
        drafts = [[] if frames == FULL_FRAMES else window.draft.tolist() for window in windows]
        found = self._decoder.decode(encoded, prompts, drafts, frames, [window.is_partial for window in windows])
        return [self._read(*each) for each in zip(windows, languages, found, strict=True)]

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

    def _read(self, window: Window, language: str, decoded: Decoded) -> _Attempt:
        if decoded.looped and window.is_partial:
            # It is not tried again: what was said before the loop, and its first turn, are the best there is.
            decoded = replace(decoded, tokens=list(without_loop(decoded.tokens)), looped=False)
        text = self._tokenizer.decode(decoded.tokens).strip()
        judgement = judge(text, len(window.audio) / SAMPLE_RATE, decoded.mean_logprob, decoded.no_speech)
        if decoded.looped:
            judgement = replace(judgement, looped=True)
        return _Attempt(text, decoded, language, judgement)

    def _hypothesis(self, attempt: _Attempt, tries: int) -> Hypothesis:
        made_up, decoded = attempt.judgement.made_up, attempt.decoded
        stats = {
            "no_speech": decoded.no_speech,
            "mean_logprob": decoded.mean_logprob,
            "tries": float(tries),
            "made_up": float(made_up),
            "decoder_passes": float(decoded.passes),
            "accepted": float(decoded.confirmed),
        }
        if made_up or not any(character.isalnum() for character in attempt.text):
            return Hypothesis("", NO_TOKENS, 0.0, attempt.language, stats=stats)
        tokens = np.array(decoded.tokens, np.int32)
        confidence = math.exp(min(decoded.mean_logprob, 0.0))
        words = word_confidences([self._tokenizer.decode([token]) for token in decoded.tokens], decoded.probabilities)
        return Hypothesis(attempt.text, tokens, confidence, attempt.language, words, stats)


def _refusal(window: Window) -> EngineError | None:
    if whisper_code(window.language) is None:
        return EngineError(f"language {window.language!r} is not known: send a code such as es, or auto")
    return refusal(window)


def _context(samples: int) -> int:
    """Frames of context for a window: its length and a margin, up to whole seconds. Its neighbours do not matter."""
    seconds = max(_MIN_CONTEXT_SECONDS, math.ceil(samples / SAMPLE_RATE + _MARGIN_SECONDS))
    return min(FULL_FRAMES, int(seconds * SAMPLE_RATE) // HOP)


def word_confidences(pieces: Sequence[str], probabilities: Sequence[float]) -> NDArray[np.float32]:
    """For each word that the pieces joined make at white space, the least probability of its pieces, shape (n,).

    Pieces that are nothing but marks do not count; a word that is nothing but marks has 1. No probabilities, no words.
    """
    words: list[float] = []
    is_open = False
    for piece, probability in zip(pieces, probabilities, strict=False):
        spoken = piece.strip()
        if piece != piece.lstrip():
            is_open = False
        if not spoken:
            continue
        if not is_open:
            words.append(1.0)
            is_open = True
        if any(character.isalnum() or character == _HALF_LETTER for character in spoken):
            words[-1] = min(words[-1], probability)
    return np.array(words, np.float32)


def _wider(frames: int, tries: int) -> int:
    """The context for the try after so many: some more silence, which cures most loops, then all there can be."""
    return FULL_FRAMES if tries + 1 >= MAX_TRIES else min(FULL_FRAMES, frames + _MORE_FRAMES)
