"""From the model's logits to marked and cased units."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.punctuation.lexicon import Lexicon, Prior
from engines.punctuation.policies import Policy
from engines.punctuation.text import MARKS, SENTENCE_ENDS, TITLES, Case, Mark, Unit, case_of, cased

_FIRST_PERSON = re.compile(r"i(['’](m|ll|ve|d|s))?$", re.IGNORECASE)


def _flat() -> tuple[float, ...]:
    return (0.0,) * len(MARKS)


@dataclass(frozen=True, slots=True)
class Bias:
    """What is added to the log-probabilities of the marks before the best is taken, tuned on texts kept apart.

    Attributes:
        inside: for units inside a segment.
        end: for a segment's last unit, where the right-hand context is missing.
    """

    inside: tuple[float, ...] = field(default_factory=_flat)
    end: tuple[float, ...] = field(default_factory=_flat)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything about decoding that was tuned with the weights.

    Attributes:
        bias: by policy.
        fresh_start: probability of a sentence end before the segment from which it starts with a capital although
            the last final did not close its sentence.
    """

    bias: Mapping[Policy, Bias] = field(default_factory=dict)
    fresh_start: float = 0.8


def load_settings(path: Path) -> Settings:
    """Reads the JSON that the training wrote beside the weights; raises ValueError or KeyError where it is broken."""
    data = json.loads(path.read_text(encoding="utf-8"))
    bias = {Policy(name): Bias(tuple(b["inside"]), tuple(b["end"])) for name, b in data["bias"].items()}
    return Settings(bias, float(data["fresh_start"]))


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log-probabilities over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    result: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def choose_marks(units: Sequence[Unit], scores: NDArray[np.float32], bias: Bias, *, ends: bool) -> list[int]:
    """The best mark of each unit from log-probabilities (u, 5); none inside a word. ``ends``: the segment ends here."""
    offsets = np.tile(np.array(bias.inside, np.float32), (len(units), 1))
    if ends:
        offsets[-1] = bias.end
    best = (scores + offsets).argmax(-1)
    return [int(mark) if unit.last else int(Mark.NONE) for unit, mark in zip(units, best, strict=True)]


def write(
    units: Sequence[Unit], marks: Sequence[int], cases: Sequence[int], lexicon: Lexicon, *, starts: bool, keep: bool
) -> list[Unit]:
    """The units with their marks and casing.

    ``starts``: the first one begins a sentence. ``keep``: the writer's acronyms and unusual spellings stay.
    """
    written: list[Unit] = []
    whole, dotted = True, False
    for unit, mark, case in zip(units, marks, cases, strict=True):
        # Addresses and abbreviations such as "i.e." stay as they are; that "i" is not the first person.
        dotted = dotted or (not unit.last and unit.trail == ".")
        if dotted:
            form = unit.form
        elif whole and unit.last and _FIRST_PERSON.match(unit.form):
            form = "I" + unit.form[1:].lower()
        else:
            form = _own_form(unit.form, Case(case), lexicon, keep=keep)
        if starts and form == form.lower():
            form = cased(form, Case.CAPITALISED)
        trail = "." + unit.trail if form.lower() in TITLES and unit.last and not unit.trail else unit.trail
        written.append(replace(unit, form=form, trail=trail, mark=mark, elided=False))
        starts, whole = mark in SENTENCE_ENDS, unit.last
        dotted = dotted and not unit.last
    return written


def _own_form(form: str, case: Case, lexicon: Lexicon, *, keep: bool) -> str:
    lower = form.lower()
    unusual = case_of(form) in (Case.UPPER, Case.MIXED)
    if keep and unusual and lexicon.prior(lower) != Prior.LOWER:
        return form
    if lower in TITLES:
        return cased(form, Case.CAPITALISED)
    return cased(form, case, lexicon.spelling(lower.replace("’", "'")))
