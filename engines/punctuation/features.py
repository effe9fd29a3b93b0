"""From units to the arrays the model reads. Training and serving share this file, so they cannot drift apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.punctuation.text import Unit, case_of

PAD, UNKNOWN, CLS, SEP = 0, 100, 101, 102
"""Special pieces of the BERT uncased vocabulary."""

CONTEXT_UNITS = 16
"""How much of the last final the model sees."""

MAX_PIECES = 256
"""The longest input, special pieces included."""

UNIT_PIECES = 16
"""The pieces of a unit that are read; only made-up words have more."""

MARK_HINTS = 6
"""0: nothing is known; 1 + index into `MARKS`: what the ASR model (or, in the context, the last final) put there."""

CASE_HINTS = 5
"""0: nothing is known; 1 + `Case`."""

Pieces = Callable[[str], Sequence[int]]
"""The word-piece ids of a lower-case string."""

Priors = Callable[[str], int]
"""The casing-statistics bucket of a lower-case form, see `engines.punctuation.lexicon`."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One segment as model input.

    Attributes:
        columns: int32 (5, n): piece, part (0 segment, 1 context), mark hint, case hint, casing prior.
        positions: int32 (u,): where the first piece of each of the segment's units lies.
        context_position: where the last context unit's first piece lies, -1 without context.
    """

    columns: NDArray[np.int32]
    positions: NDArray[np.int32]
    context_position: int


def encode(
    units: Sequence[Unit], context: Sequence[Unit], pieces: Pieces, priors: Priors, *, use_hints: bool
) -> Encoded:
    """Encodes a segment after its context as ``[CLS] context [SEP] segment [SEP]``.

    ``use_hints`` tells the model the marks and casing that the units carry; the context always tells its own.
    """
    rows: list[tuple[int, int, int, int, int]] = [(CLS, 0, 0, 0, 0)]
    context_position = -1
    for unit in context[-CONTEXT_UNITS:]:
        context_position = _add(rows, unit, 1, pieces, priors, hints=True)
    if context:
        rows.append((SEP, 1, 0, 0, 0))
    positions = [_add(rows, unit, 0, pieces, priors, hints=use_hints) for unit in units]
    rows.append((SEP, 0, 0, 0, 0))
    columns = np.array(rows, np.int32).T
    return Encoded(np.ascontiguousarray(columns), np.array(positions, np.int32), context_position)


def _add(
    rows: list[tuple[int, int, int, int, int]], unit: Unit, part: int, pieces: Pieces, priors: Priors, *, hints: bool
) -> int:
    """Appends a unit's pieces and returns the row of the form's first one."""
    mark_hint = 1 + unit.mark if hints and not unit.elided else 0
    case_hint = 1 + int(case_of(unit.form)) if hints else 0
    form = unit.form.lower().replace("’", "'")
    prior = priors(form)
    rows.extend((piece, part, 0, 0, 0) for piece in _symbols(unit.lead, pieces))
    position = len(rows)
    rows.extend((piece, part, mark_hint, case_hint, prior) for piece in pieces(form)[:UNIT_PIECES])
    if len(rows) == position:
        rows.append((UNKNOWN, part, mark_hint, case_hint, prior))
    if not unit.last:
        rows.extend((piece, part, 0, 0, 0) for piece in _symbols(unit.trail, pieces))
    return position


def _symbols(text: str, pieces: Pieces) -> Sequence[int]:
    return pieces(text)[:2] if text else ()


def pad(batch: Sequence[NDArray[np.int32]], width: int = 0) -> NDArray[np.int32]:
    """Stacks column blocks (5, n_i) into (b, 5, n), n at least ``width``; `PAD` pieces are masked by the model."""
    width = max(width, *(block.shape[1] for block in batch))
    stacked = np.zeros((len(batch), batch[0].shape[0], width), np.int32)
    for row, block in zip(stacked, batch, strict=True):
        row[:, : block.shape[1]] = block
    return stacked
