"""Prepared texts and the endless stream of training batches made from them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.punctuation.features import MAX_PIECES, Encoded, Pieces, encode, pad
from engines.punctuation.lexicon import Lexicon
from training.punctuation import casing, sources
from training.punctuation.documents import Labelled, label, split_of
from training.punctuation.speech import Segment, cut, misheard, transcribed

IGNORED = -100
"""A position without a label."""

KEEP = {"austen": 0.6}
"""The share of a source's documents' passages that a pass over the texts takes; 1 where it is not named."""

SLIPS = 0.15
"""The share of segments whose last final is made to end with a wrong mark."""

POOL = 4096
"""Segments that are sorted by length together before they are batched."""

BARE_SHARE = 0.3
"""The share of training segments that come without the ASR model's marks."""


@dataclass(frozen=True, slots=True)
class Texts:
    """All labelled documents by split and source, and the lexicon built for them."""

    splits: dict[str, dict[str, list[list[Labelled]]]]
    lexicon: Lexicon


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Model input and labels.

    Attributes:
        columns: int32 (b, 5, n), see `engines.punctuation.features.Encoded`.
        marks: int64 (b, n), class or `IGNORED`.
        cases: int64 (b, n), class or `IGNORED`.
    """

    columns: NDArray[np.int32]
    marks: NDArray[np.int64]
    cases: NDArray[np.int64]


def prepare(folder: Path) -> Texts:
    """Reads, cleans, labels and splits every document."""
    counts = sources.casing_counts(folder)
    lexicon = casing.build(counts, ())
    splits: dict[str, dict[str, list[list[Labelled]]]] = defaultdict(lambda: defaultdict(list))
    for document in sources.documents(folder):
        passages = label(document, lexicon)
        if passages:
            splits[split_of(document)][document.source].append(passages)
    train = (unit for docs in splits["train"].values() for doc in docs for p in doc for unit in p.units)
    return Texts({split: dict(by_source) for split, by_source in splits.items()}, casing.build(counts, train))


def encode_segment(segment: Segment, texts: Lexicon, pieces: Pieces, rng: random.Random) -> Encoded:
    """Encodes a training segment, bare or with marks as an ASR model would set them."""
    bare = rng.random() < BARE_SHARE
    units = segment.truth if bare else transcribed(segment, rng)
    return encode(units, segment.context, pieces, texts.prior, use_hints=not bare)


def _example(segment: Segment, encoded: Encoded) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    length = encoded.columns.shape[1]
    marks, cases = np.full(length, IGNORED, np.int64), np.full(length, IGNORED, np.int64)
    for position, unit, case in zip(encoded.positions, segment.truth, segment.cases, strict=True):
        if unit.last:
            marks[position] = unit.mark
        if case >= 0:
            cases[position] = case
    if encoded.context_position >= 0:
        marks[encoded.context_position] = segment.context_mark
    return marks, cases


def batches(texts: Texts, pieces: Pieces, tokens: int, seed: int) -> Iterator[Batch]:
    """Endless batches of about ``tokens`` pieces, each of segments of like length, cut anew in every pass."""
    rng = random.Random(seed)
    train = texts.splits["train"]
    words = [unit.form for docs in train.values() for doc in docs[:50] for unit in doc[0].units]
    lower_words = [word for word in words if word.isalpha() and word.islower()]
    pool: list[tuple[Encoded, NDArray[np.int64], NDArray[np.int64]]] = []
    for segment in _segments(train, rng):
        heard = misheard(with_slips(segment, rng), lower_words, rng)
        encoded = encode_segment(heard, texts.lexicon, pieces, rng)
        if encoded.columns.shape[1] <= MAX_PIECES:
            pool.append((encoded, *_example(heard, encoded)))
        if len(pool) == POOL:
            yield from _batched(pool, tokens, rng)
            pool.clear()


def with_slips(segment: Segment, rng: random.Random) -> Segment:
    """Now and then the last final ended wrongly: its closing mark is lost or a full stop is too many."""
    if not segment.context or rng.random() >= SLIPS:
        return segment
    last = segment.context[-1]
    slip = replace(last, mark=rng.choice((0, 1, 2)))
    return replace(segment, context=(*segment.context[:-1], slip))


def _segments(train: dict[str, list[list[Labelled]]], rng: random.Random) -> Iterator[Segment]:
    documents = [(source, doc) for source, docs in sorted(train.items()) for doc in _blocks(docs)]
    while True:
        rng.shuffle(documents)
        for source, doc in documents:
            if rng.random() < KEEP.get(source, 1.0):
                yield from cut(doc, rng)


def _blocks(docs: Sequence[list[Labelled]], size: int = 20) -> Iterator[list[Labelled]]:
    """Long works in blocks of passages, so that a batch mixes many of them."""
    for doc in docs:
        for start in range(0, len(doc), size):
            yield doc[start : start + size]


def _batched(
    pool: list[tuple[Encoded, NDArray[np.int64], NDArray[np.int64]]], tokens: int, rng: random.Random
) -> list[Batch]:
    pool.sort(key=lambda item: item[0].columns.shape[1])
    made: list[Batch] = []
    start = 0
    while start < len(pool):
        end = start + 1
        while end < len(pool) and (end + 1 - start) * pool[end][0].columns.shape[1] <= tokens:
            end += 1
        made.append(_stack(pool[start:end]))
        start = end
    rng.shuffle(made)
    return made


def _stack(items: Sequence[tuple[Encoded, NDArray[np.int64], NDArray[np.int64]]]) -> Batch:
    columns = pad([encoded.columns for encoded, _, _ in items])
    marks, cases = (np.full((len(items), columns.shape[2]), IGNORED, np.int64) for _ in range(2))
    for row, (_, mark, case) in enumerate(items):
        marks[row, : len(mark)], cases[row, : len(case)] = mark, case
    return Batch(columns, marks, cases)
