"""Tunes the decoding on the documents that were set apart for it: offsets of the marks, and when to start afresh."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
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
from training.punctuation.dataset import Texts, with_slips
from training.punctuation.network import Tagger
from training.punctuation.speech import Segment, cut, misheard, transcribed

WEIGHTS = {Mark.COMMA: 1.0, Mark.STOP: 1.0, Mark.QUESTION: 1.0, Mark.EXCLAMATION: 0.25}
"""How much each mark's F1 counts; exclamation marks are a matter of taste."""

CUTS = 4
"""How often the tuning documents are cut, each time elsewhere."""

_GRID = np.arange(-1.5, 1.51, 0.1)
_FRESH_STARTS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True, slots=True, eq=False)
class _Model:
    """What it takes to label a segment."""

    tagger: Tagger
    pieces: Pieces
    lexicon: Lexicon


def tune(tagger: Tagger, texts: Texts, pieces: Pieces, path: Path, seed: int = 11) -> None:
    """Writes ``settings.json``: for each policy the offsets with the best weighted F1 on the tuning documents.

    They are few and a segment has one end only, so they are cut several times over. As while training, the last final
    now and then ended wrongly.
    """
    rng = random.Random(seed)
    documents = [doc for _, docs in sorted(texts.splits["dev"].items()) for doc in docs] * CUTS
    segments = [misheard(with_slips(segment, rng), ["the"], rng) for doc in documents for segment in cut(doc, rng)]
    model = _Model(tagger, pieces, texts.lexicon)
    bias: dict[str, dict[str, list[float]]] = {}
    fresh_starts = []
    for policy in (Policy.MODEL, Policy.BOTH):
        found = _predict(model, segments, policy)
        # Ends count for themselves: among the marks inside, those that join segments would hardly weigh anything.
        places = np.flatnonzero(~found.at_end), _typical_ends(found, seed)
        inside, end = (_ascend(found.scores[place], found.truth[place]) for place in places)
        bias[str(policy)] = {"inside": inside, "end": end}
        fresh_starts.append(_fresh_start(_starts(model, segments, policy)))
    settings = {"bias": bias, "fresh_start": max(fresh_starts)}
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True, eq=False)
class _Predictions:
    """Log-probabilities (u, 5), true marks and segment ends of all units."""

    scores: NDArray[np.float32]
    truth: NDArray[np.int64]
    at_end: NDArray[np.bool_]


def _label(
    model: _Model, segments: Sequence[Segment], policy: Policy
) -> Iterator[tuple[Segment, Encoded, NDArray[np.float32]]]:
    """The segments as the policy reads them, each with the log-probabilities (n, 5) of its pieces."""
    rng = random.Random(5)
    samples = []
    for segment in segments:
        units = transcribed(segment, rng) if policy == Policy.BOTH else segment.truth
        sample = encode(units, segment.context, model.pieces, model.lexicon.prior, use_hints=policy == Policy.BOTH)
        if sample.columns.shape[1] <= MAX_PIECES:
            samples.append((segment, sample))
    samples.sort(key=lambda item: item[1].columns.shape[1])
    for first in range(0, len(samples), 32):
        group = samples[first : first + 32]
        with torch.no_grad():
            marks, _ = model.tagger(torch.from_numpy(pad([sample.columns for _, sample in group])).long())
        for (segment, sample), row in zip(group, log_softmax(marks.float().numpy()), strict=True):
            yield segment, sample, row


def _predict(model: _Model, segments: Sequence[Segment], policy: Policy) -> _Predictions:
    scores, truth, at_end = [], [], []
    for segment, sample, row in _label(model, segments, policy):
        last = [unit.last for unit in segment.truth]
        scores.append(row[sample.positions][last])
        truth += [int(unit.mark) for unit in segment.truth if unit.last]
        at_end += [False] * (sum(last) - 1) + [True]
    return _Predictions(np.concatenate(scores), np.array(truth), np.array(at_end))


def _typical_ends(found: _Predictions, seed: int) -> NDArray[np.intp]:
    """The places of the segments' ends, so many closed ones left out that one end of three is in mid-sentence.

    The ends of the documents' many short messages and paragraphs are no pauses of a speaker.
    """
    ends = np.flatnonzero(found.at_end)
    is_closed = np.isin(found.truth[ends], sorted(SENTENCE_ENDS))
    closed = np.random.default_rng(seed).permutation(ends[is_closed])
    return np.concatenate([ends[~is_closed], closed[: 2 * int((~is_closed).sum())]])


def _starts(model: _Model, segments: Sequence[Segment], policy: Policy) -> list[tuple[float, bool]]:
    """How surely each segment starts afresh, and whether it does, where the last final was left open."""
    rng = random.Random(5)
    opened = [
        replace(s, context=(*s.context[:-1], replace(s.context[-1], mark=rng.choice((0, 1)))))
        for s in segments
        if s.context
    ]
    ends = sorted(SENTENCE_ENDS)
    return [
        (float(np.exp(row[sample.context_position, ends]).sum()), segment.context_mark in SENTENCE_ENDS)
        for segment, sample, row in _label(model, opened, policy)
    ]


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
