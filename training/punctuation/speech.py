"""Turns clean passages into segments as speech gives them: cut at pauses, with an ASR model's mistakes and marks."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from engines.punctuation.features import CONTEXT_UNITS
from engines.punctuation.text import SENTENCE_ENDS, Case, Mark, Unit, case_of, cased
from training.punctuation.documents import Labelled
from training.punctuation.spoken import DIGITS, SOUND_ALIKE, say

CUT_AFTER_SENTENCE, CUT_AFTER_COMMA, CUT_ELSEWHERE = 0.4, 0.08, 0.008
"""How likely a pause that ends a segment is after a unit: about two of three cuts end a sentence."""

MAX_UNITS = 70
"""The longest segment; speech of 25 to 30 seconds."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment with its truth.

    Attributes:
        context: units before it as the last final has them, marks included.
        truth: its units with their true marks and forms.
        cases: each unit's own casing class, or -1 where it is not known.
        context_mark: the true mark after the context's last unit, whatever the last final had there.
    """

    context: tuple[Unit, ...]
    truth: tuple[Unit, ...]
    cases: tuple[int, ...]
    context_mark: int = 0


def cut(passages: Sequence[Labelled], rng: random.Random) -> Iterator[Segment]:
    """Cuts a document's passages at random pauses. Context goes on over passages."""
    before: tuple[Unit, ...] = ()
    for passage in passages:
        start = 0
        for end in _ends(passage.units, rng):
            reach = rng.randint(0, CONTEXT_UNITS) if rng.random() < 0.5 else CONTEXT_UNITS
            context = before[-reach:] if reach and rng.random() < 0.9 else ()
            yield Segment(context, passage.units[start:end], passage.cases[start:end], before[-1].mark if before else 0)
            before = (*before, *passage.units[start:end])[-CONTEXT_UNITS:]
            start = end


def _ends(units: Sequence[Unit], rng: random.Random) -> Iterator[int]:
    start = 0
    for i, unit in enumerate(units, start=1):
        chance = CUT_ELSEWHERE
        if unit.mark:
            chance = CUT_AFTER_SENTENCE if unit.mark in SENTENCE_ENDS else CUT_AFTER_COMMA
        if i == len(units) or (unit.last and (rng.random() < chance or i - start >= MAX_UNITS)):
            yield i
            start = i


def misheard(segment: Segment, words: Sequence[str], rng: random.Random) -> Segment:
    """The segment with numbers spelt otherwise and, in every second one, words lost, doubled or mistaken.

    A lost word leaves its mark to the word before it. ``words`` is where foreign words are drawn from.
    """
    rate = 0.0 if rng.random() < 0.5 else rng.uniform(0.01, 0.08)
    respell = rng.random() < 0.4
    heard: list[tuple[Unit, int]] = []
    for unit, case in zip(segment.truth, segment.cases, strict=True):
        spoken = _respelt(unit) if respell else None
        if spoken is not None:
            heard += [(word, int(Case.LOWER)) for word in spoken]
        elif unit.last and not unit.lead and not unit.trail and rng.random() < rate:
            _mishear(unit, case, heard, words, rng)
        else:
            heard.append((unit, case))
    if not heard:
        return segment
    units, cases = zip(*heard, strict=True)
    return replace(segment, truth=units, cases=cases)


def _respelt(unit: Unit) -> list[Unit] | None:
    if unit.lead or unit.trail or not unit.last:
        return None
    if unit.form in DIGITS:
        return [replace(unit, form=DIGITS[unit.form])]
    said = say(unit.form)
    if said is None:
        return None
    return [*(Unit(word) for word in said[:-1]), replace(unit, form=said[-1])]


def _mishear(unit: Unit, case: int, heard: list[tuple[Unit, int]], words: Sequence[str], rng: random.Random) -> None:
    """Appends what is heard instead of a unit: nothing, the unit twice, a word that sounds alike, or any word."""
    kind = rng.random()
    if kind < 0.35 and heard and heard[-1][0].last:
        before, before_case = heard[-1]
        heard[-1] = (replace(before, mark=max(unit.mark, before.mark)), before_case)
        return
    alike = SOUND_ALIKE.get(unit.form.lower())
    if kind < 0.55:
        heard.append((replace(unit, mark=Mark.NONE), case))
        unit = replace(unit, form=unit.form if case else unit.form.lower())
    elif alike:
        form = rng.choice(alike)
        unit, case = replace(unit, form="I" if form == "i" else form), int(Case.LOWER)
    elif kind < 0.75:
        unit, case = replace(unit, form=rng.choice(words)), -1
    heard.append((unit, case))


def transcribed(segment: Segment, rng: random.Random) -> tuple[Unit, ...]:
    """The segment's units as an ASR model would write them: most marks right, some wrong, always ending somehow."""
    trust = rng.random()
    units: list[Unit] = []
    starts = True
    for i, unit in enumerate(segment.truth):
        at_end = i + 1 == len(segment.truth)
        heard = _heard_mark(unit, trust, rng, at_end=at_end) if unit.last else int(Mark.NONE)
        form = _heard_form(unit.form, segment.cases[i], rng, starts=starts)
        units.append(replace(unit, form=form, mark=max(heard, 0), elided=heard < 0))
        # Moonshine goes on in lower case after some of its stops, mostly where the sentence goes on.
        lapse = 0.04 if unit.mark in SENTENCE_ENDS else 0.3
        starts = heard in SENTENCE_ENDS and rng.random() >= lapse
    return tuple(units)


_ELIDED = -1

_CONFUSIONS: dict[int, tuple[tuple[int, float], ...]] = {
    Mark.STOP: ((Mark.STOP, 0.9), (Mark.COMMA, 0.06), (Mark.NONE, 0.04)),
    Mark.QUESTION: ((Mark.QUESTION, 0.75), (Mark.STOP, 0.2), (Mark.COMMA, 0.05)),
    Mark.EXCLAMATION: ((Mark.EXCLAMATION, 0.25), (Mark.STOP, 0.6), (Mark.COMMA, 0.1), (Mark.NONE, 0.05)),
}
_CONFUSIONS_AT_END: dict[int, tuple[tuple[int, float], ...]] = {
    Mark.STOP: ((Mark.STOP, 0.93), (Mark.NONE, 0.04), (_ELIDED, 0.03)),
    Mark.QUESTION: ((Mark.QUESTION, 0.75), (Mark.STOP, 0.22), (Mark.NONE, 0.03)),
    Mark.EXCLAMATION: ((Mark.EXCLAMATION, 0.25), (Mark.STOP, 0.7), (Mark.NONE, 0.05)),
    Mark.COMMA: ((Mark.STOP, 0.65), (Mark.COMMA, 0.15), (Mark.NONE, 0.12), (_ELIDED, 0.08)),
    Mark.NONE: ((Mark.STOP, 0.7), (Mark.COMMA, 0.03), (Mark.NONE, 0.17), (_ELIDED, 0.1)),
}


def _heard_mark(unit: Unit, trust: float, rng: random.Random, *, at_end: bool) -> int:
    """A mark as heard; ``trust`` (0 to 1) is how well this ASR model places commas and stops inside a segment."""
    if at_end:
        return _draw(_CONFUSIONS_AT_END[unit.mark], rng)
    if unit.mark == Mark.NONE:
        wrong = rng.random()
        return int(
            Mark.COMMA if wrong < 0.03 * (1 - trust) else Mark.STOP if wrong < 0.035 * (1 - trust) else Mark.NONE
        )
    if unit.mark == Mark.COMMA:
        kept = 0.35 + 0.5 * trust
        return _draw(((Mark.COMMA, kept), (Mark.STOP, 0.1), (Mark.NONE, 0.9 - kept)), rng)
    return _draw(_CONFUSIONS[unit.mark], rng)


def _draw(chances: Sequence[tuple[int, float]], rng: random.Random) -> int:
    marks, weights = zip(*chances, strict=True)
    return int(rng.choices(marks, weights)[0])


def _heard_form(form: str, case: int, rng: random.Random, *, starts: bool) -> str:
    """A form as an ASR model cases it: capital at its own sentence starts, most names right."""
    own = case if case >= 0 else int(case_of(form))
    if own == Case.LOWER and form.lower() not in ("i", "i'm", "i'll", "i've", "i'd"):
        result = form.lower()
        if rng.random() < 0.01:
            result = cased(form, Case.CAPITALISED)
    else:
        result = form if rng.random() < 0.9 else cased(form, rng.choice((Case.LOWER, Case.CAPITALISED)))
    return result[0].upper() + result[1:] if starts and result == result.lower() else result
