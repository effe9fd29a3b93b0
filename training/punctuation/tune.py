"""Tunes the decoding on the documents that were set apart for it: offsets of the marks, and when to start afresh."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from engines.punctuation.decode import log_softmax
from engines.punctuation.features import MAX_PIECES, Encoded, Pieces, encode, pad
from engines.punctuation.lexicon import Lexicon
from engines.punctuation.policies import Policy
from engines.punctuation.text import MARKS, SENTENCE_ENDS, Mark
from training.punctuation.dataset import Texts
from training.punctuation.network import Tagger
from training.punctuation.speech import Segment, cut, misheard, transcribed

WEIGHTS = {Mark.COMMA: 1.0, Mark.STOP: 1.0, Mark.QUESTION: 1.0, Mark.EXCLAMATION: 0.25}
"""How much each mark's F1 counts; exclamation marks are a matter of taste."""

TRUST = 2.5
"""How much more the ASR model's marks inside a segment count than the network makes of them.

Not tuned here: the network only ever met simulated marks, and on recordings the real ones were right more often.
"""

_GRID = np.arange(-1.5, 1.51, 0.1)
_FRESH_STARTS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True, slots=True, eq=False)
class _Model:
    """What it takes to label a segment."""

    tagger: Tagger
    pieces: Pieces
    lexicon: Lexicon


def tune(tagger: Tagger, texts: Texts, pieces: Pieces, path: Path, seed: int = 11) -> None:
    """Writes ``settings.json``: for each policy the offsets with the best weighted F1 on the tuning documents."""
    rng = random.Random(seed)
    documents = [doc for _, docs in sorted(texts.splits["dev"].items()) for doc in docs]
    segments = [misheard(segment, ["the"], rng) for doc in documents for segment in cut(doc, rng)]
    model = _Model(tagger, pieces, texts.lexicon)
    bias: dict[str, dict[str, object]] = {}
    fresh_starts = []
    for policy in (Policy.MODEL, Policy.BOTH):
        found = _predict(model, segments, policy)
        inside = _ascend(found.scores[~found.at_end], found.truth[~found.at_end])
        end = _ascend(found.scores[found.at_end], found.truth[found.at_end])
        trust = TRUST if policy == Policy.BOTH else 0.0
        bias[str(policy)] = {"inside": inside, "end": end, "trust": trust, "end_trust": 0.0}
        fresh_starts.append(_fresh_start(found.starts))
    settings = {"bias": bias, "fresh_start": max(fresh_starts)}
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True, eq=False)
class _Predictions:
    """Log-probabilities (u, 5), true marks and segment ends of all units; how surely each segment starts afresh."""

    scores: NDArray[np.float32]
    truth: NDArray[np.int64]
    at_end: NDArray[np.bool_]
    starts: list[tuple[float, bool]]


def _encode(segments: Sequence[Segment], model: _Model, policy: Policy) -> list[tuple[Segment, Encoded]]:
    """The segments as the policy reads them; the last final has lost its mark or kept a comma."""
    rng = random.Random(5)
    samples = []
    for segment in segments:
        units = transcribed(segment, rng) if policy == Policy.BOTH else segment.truth
        context = segment.context
        if context:
            context = (*context[:-1], replace(context[-1], mark=rng.choice((0, 1))))
        sample = encode(units, context, model.pieces, model.lexicon.prior, use_hints=policy == Policy.BOTH)
        if sample.columns.shape[1] <= MAX_PIECES:
            samples.append((segment, sample))
    return sorted(samples, key=lambda item: item[1].columns.shape[1])


def _predict(model: _Model, segments: Sequence[Segment], policy: Policy) -> _Predictions:
    samples = _encode(segments, model, policy)
    scores, truth, at_end, starts = [], [], [], []
    for first in range(0, len(samples), 32):
        group = samples[first : first + 32]
        with torch.no_grad():
            marks, _ = model.tagger(torch.from_numpy(pad([sample.columns for _, sample in group])).long())
        for (segment, sample), row in zip(group, log_softmax(marks.float().numpy()), strict=True):
            last = [unit.last for unit in segment.truth]
            scores.append(row[sample.positions][last])
            truth += [int(unit.mark) for unit in segment.truth if unit.last]
            at_end += [False] * (sum(last) - 1) + [True]
            if sample.context_position >= 0:
                ended = float(np.exp(row[sample.context_position, sorted(SENTENCE_ENDS)]).sum())
                starts.append((ended, segment.context_mark in SENTENCE_ENDS))
    return _Predictions(np.concatenate(scores), np.array(truth), np.array(at_end), starts)


def _ascend(scores: NDArray[np.float32], truth: NDArray[np.int64]) -> list[float]:
    """Offsets by coordinate ascent on the weighted F1, from zero, each mark in turn, twice."""
    offsets = np.zeros(len(MARKS), np.float32)
    for _ in range(2):
        for mark in WEIGHTS:
            # An exclamation mark is never encouraged: in speech it is a guess at best.
            tried = []
            for value in _GRID[_GRID < 0.05] if mark == Mark.EXCLAMATION else _GRID:
                offsets[mark] = value
                tried.append((_objective(scores + offsets, truth), -abs(value), float(value)))
            offsets[mark] = max(tried)[2]
    return [round(float(value), 2) for value in offsets]


def _objective(scores: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    best = scores.argmax(-1)
    total = 0.0
    for mark, weight in WEIGHTS.items():
        both = int((best == mark).sum() + (truth == mark).sum())
        total += weight * 2 * int(((best == mark) & (truth == mark)).sum()) / both if both else 0.0
    return total


def _fresh_start(starts: Sequence[tuple[float, bool]]) -> float:
    """The threshold that most often tells a new sentence from one that goes on, after a final without its mark."""
    return max(_FRESH_STARTS, key=lambda t: sum((ended >= t) == new for ended, new in starts))
