"""Between a text and the units that the punctuation model labels: parsing, casing classes, writing back.

A text is split at white space into words and each word into *units*, the runs of letters and digits that carry one
casing (``cross-town`` has two). Marks that end a word are taken off and kept as what the writer meant; everything
else that is not a letter or a digit stays where it is, so that no word ever changes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

MARKS = ("", ",", ".", "?", "!")
"""The marks a unit can be followed by; the index is the model's class."""

SENTENCE_ENDS = frozenset({2, 3, 4})
"""Indices into `MARKS` that end a sentence."""


class Mark(IntEnum):
    """Classes of the mark after a unit, in the order of `MARKS`."""

    NONE = 0
    COMMA = 1
    STOP = 2
    QUESTION = 3
    EXCLAMATION = 4


class Case(IntEnum):
    """Classes of a unit's own casing, sentence starts not counted."""

    LOWER = 0
    CAPITALISED = 1
    UPPER = 2
    MIXED = 3


@dataclass(frozen=True, slots=True)
class Unit:
    """One run of letters and digits with what stands round it.

    Attributes:
        form: the letters as written, apostrophes inside included.
        lead: what stands before it in its word, such as ``$`` or an opening quote.
        trail: what stands after it, marks taken off, such as ``%``, ``-`` or a closing quote; symbols that stood
            alone follow after a space.
        last: it is its word's last unit, so a mark may follow.
        mark: the mark the writer put after it, as an index into `MARKS`.
        elided: the writer's mark was an ellipsis, which says little about the sentence.
    """

    form: str
    lead: str = ""
    trail: str = ""
    last: bool = True
    mark: int = Mark.NONE
    elided: bool = False


ABBREVIATIONS = frozenset({"mr", "mrs", "ms", "dr", "jr", "sr", "vs", "etc", "prof", "rev", "hon", "messrs"})
"""Words whose full stop is part of their spelling and says nothing about the sentence."""

TITLES = frozenset({"mr", "mrs", "ms", "dr", "messrs"})
"""Abbreviations that get their full stop back where a bare text has lost it."""

_UNIT = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_DASH = re.compile(r"(?:\s+[-–]+(?=\s|$)|\s*(?:—|--+))\s*")
_LEADING_MARKS = re.compile(r"[.,?!;:…]+$|^[.,?!;:…]+")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]$")
_MARK_CHARACTERS = ".,?!;:…"


def parse(text: str) -> list[Unit]:
    """Splits a text into units; concatenating lead, form and trail of all gives its words back without the marks.

    Dashes between words count as commas. What holds no letter or digit joins the unit before it.
    """
    units: list[Unit] = []
    pending = ""
    for token in _DASH.sub(", ", text).split():
        found = list(_UNIT.finditer(token))
        if not found:
            if units:
                units[-1] = _attach(units[-1], token)
            elif token.strip(_MARK_CHARACTERS + "-–"):
                pending += token + " "
            continue
        for i, match in enumerate(found):
            end = found[i + 1].start() if i + 1 < len(found) else len(token)
            lead = _lead(token[: match.start()], match.group()) if i == 0 else ""
            units.append(Unit(match.group(), pending + lead, token[match.end() : end], last=False))
            pending = ""
        units[-1] = _read_mark(replace(units[-1], last=True), token[: found[-1].end()])
    return units


def _lead(lead: str, form: str) -> str:
    """What stands before a word without marks that belong to no word; the point of ``.5`` stays."""
    return lead if lead.endswith(".") and form[0].isdigit() and len(lead) < 3 else _LEADING_MARKS.sub("", lead)


def _attach(unit: Unit, token: str) -> Unit:
    """Gives a token without letters, such as a lone ``?`` or ``&``, to the unit before it."""
    marked = _read_mark(replace(unit, trail=token, mark=Mark.NONE, elided=False), "")
    symbols = " " + marked.trail if marked.trail else ""
    if unit.mark == Mark.NONE and not unit.elided:
        unit = replace(unit, mark=marked.mark, elided=marked.elided)
    return replace(unit, trail=unit.trail + symbols)


def _read_mark(unit: Unit, word: str) -> Unit:
    """Takes the mark off a last unit's trail; ``word`` is its word up to the unit's end."""
    marks = "".join(c for c in unit.trail if c in _MARK_CHARACTERS)
    trail = "".join(c for c in unit.trail if c not in _MARK_CHARACTERS)
    if marks.startswith(".") and (word.lower().lstrip("\"'“‘(") in ABBREVIATIONS or _INITIALS.search(word)):
        trail, marks = "." + trail, marks[1:]
    elided = "…" in marks or "..." in marks or marks == ".."
    for character, mark in (("?", Mark.QUESTION), ("!", Mark.EXCLAMATION)):
        if character in marks:
            return replace(unit, trail=trail, mark=mark)
    if elided:
        return replace(unit, trail=trail, elided=True)
    if "." in marks:
        return replace(unit, trail=trail, mark=Mark.STOP)
    return replace(unit, trail=trail, mark=Mark.COMMA if marks else Mark.NONE)


def case_of(form: str) -> Case:
    """The casing class of a form. A lone capital counts as capitalised; ``NASA's`` as upper."""
    stem = re.sub(r"['’]s$", "", form)
    letters = [c for c in stem if c.isalpha()]
    if form == form.lower():
        return Case.LOWER
    if stem == stem.upper() and (len(letters) > 1 or not form[0].isalpha()):
        return Case.UPPER
    if form[0].isupper() and form[1:] == form[1:].lower():
        return Case.CAPITALISED
    return Case.MIXED


def cased(form: str, case: Case, mixed: str | None = None) -> str:
    """The form in the given casing. ``mixed`` is the lexicon's spelling; a changed length keeps the form as it is."""
    lower = form.lower()
    if mixed is not None and case != Case.LOWER and mixed.lower() == lower:
        return mixed
    if case == Case.LOWER:
        result = lower
    elif case == Case.UPPER:
        stem, possessive = (lower[:-2], lower[-2:]) if re.search(r"['’]s$", lower) else (lower, "")
        result = stem.upper() + possessive
    else:
        result = lower[0].upper() + lower[1:]
    return result if result.lower() == lower else form


def join(units: Sequence[Unit]) -> str:
    """Writes units back as text, each with its mark, words apart by one space."""
    parts: list[str] = []
    for unit in units:
        trail = unit.trail
        mark = MARKS[unit.mark]
        if unit.last:
            closing = len(trail) - len(trail.lstrip("%°+#.*/€£"))
            dotted = trail[:closing].endswith(".") and mark == "."
            trail = trail[:closing] + ("" if dotted else mark) + trail[closing:] + " "
        parts.append(unit.lead + unit.form + trail)
    return "".join(parts).rstrip()
