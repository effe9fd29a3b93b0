"""The two ways from what Whisper's encoder heard to tokens: with drafts on ONNX Runtime, or without on CTranslate2."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import ctranslate2
import numpy as np

from engines.runtime.greedy import GreedyDecoder, Job, Row, Vocabulary
from engines.runtime.sessions import open_session, providers_for

_CROSS = "cross.int8.onnx"
_DECODER = "decoder.int8.onnx"
_MAX_TOKENS = 220
_TOKENS_PER_SECOND = 25
"""Generous: scripts that Whisper spells in bytes take three tokens a letter."""


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """One decoding.

    Attributes:
        tokens: ids of the text.
        probabilities: of each of them; empty where the decoder does not tell.
        mean_logprob: mean log-probability of the tokens and the end mark.
        no_speech: probability of the no-speech mark.
        passes: decoder passes used.
        confirmed: tokens of the draft that were right.
        looped: decoding was stopped because the text repeated itself.
    """

    tokens: list[int]
    probabilities: Sequence[float]
    mean_logprob: float
    no_speech: float
    passes: int
    confirmed: int = 0
    looped: bool = False


class Decoder(Protocol):
    """From what the encoder heard to tokens."""

    def decode(
        self,
        encoded: ctranslate2.StorageView,
        prompts: Sequence[Sequence[int]],
        drafts: Sequence[Sequence[int]],
        frames: int,
        hasty: Sequence[bool],
    ) -> list[Decoded]:
        """Decodes a batch greedily; `frames` is the length of the context, in steps of 10 ms. See `Job` for `hasty`."""
        ...

    def close(self) -> None:
        """Ends threads."""
        ...


class PlainDecoder:
    """CTranslate2's own decoding; drafts are not used. The fastest on a GPU."""

    def __init__(self, model: ctranslate2.models.Whisper, words: range) -> None:
        """`words`: the ids that text is made of."""
        self._model = model
        self._words = words

    def decode(
        self,
        encoded: ctranslate2.StorageView,
        prompts: Sequence[Sequence[int]],
        drafts: Sequence[Sequence[int]],
        frames: int,
        hasty: Sequence[bool],
    ) -> list[Decoded]:
        """See `Decoder`."""
        del drafts, hasty
        outputs = self._model.generate(
            encoded,
            [list(prompt) for prompt in prompts],
            beam_size=1,
            max_length=_limit(frames),
            return_scores=True,
            return_no_speech_prob=True,
        )
        found = []
        for output in outputs:
            tokens = [token for token in output.sequences_ids[0] if token in self._words]
            found.append(Decoded(tokens, (), output.scores[0], output.no_speech_prob, len(tokens)))
        return found

    def close(self) -> None:
        """See `Decoder`."""


class DraftedDecoder:
    """The graphs of `engines.whisper.convert`: all tokens of a draft are checked in one pass."""

    @staticmethod
    def is_in(model_dir: Path) -> bool:
        """Whether the graphs are there."""
        return (model_dir / _CROSS).is_file() and (model_dir / _DECODER).is_file()

    def __init__(self, model_dir: Path, words: range, guess: int, threads: int) -> None:
        """See `Vocabulary` for `words` and `guess`; the rows of a batch are dealt out to `threads` threads."""
        providers = providers_for("cpu", 0)
        self._cross = open_session(model_dir / _CROSS, providers)
        self._decoder = GreedyDecoder(
            open_session(model_dir / _DECODER, providers), "cpu", Vocabulary(words, guess, stops_loops=True)
        )
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "whisper") if threads > 1 else None

    def decode(
        self,
        encoded: ctranslate2.StorageView,
        prompts: Sequence[Sequence[int]],
        drafts: Sequence[Sequence[int]],
        frames: int,
        hasty: Sequence[bool],
    ) -> list[Decoded]:
        """See `Decoder`."""
        (cross,) = self._cross.run(None, {"encoded": np.asarray(encoded, np.float32)})
        rows = enumerate(zip(prompts, drafts, hasty, strict=True))
        jobs = [Job(prompt, cross[:, at], draft, _limit(frames), haste) for at, (prompt, draft, haste) in rows]
        hands = [jobs[first :: self._threads] for first in range(min(self._threads, len(jobs)))]
        run = self._pool.map if self._pool and len(hands) > 1 else map
        dealt = list(run(self._decoder.decode, hands))
        return [_decoded(dealt[at % len(dealt)][at // len(dealt)]) for at in range(len(jobs))]

    def close(self) -> None:
        """See `Decoder`."""
        if self._pool:
            self._pool.shutdown()


def _limit(frames: int) -> int:
    return min(_MAX_TOKENS, _TOKENS_PER_SECOND * frames // 100)


def _decoded(row: Row) -> Decoded:
    mean = float(np.log(np.maximum(row.probabilities, 1e-9)).mean())
    return Decoded(
        row.tokens, row.probabilities[: len(row.tokens)], mean, row.watched, row.passes, row.confirmed, row.looped
    )
