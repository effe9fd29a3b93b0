"""The rule baseline: what needs no model."""

from __future__ import annotations

from dataclasses import replace

from engines.punctuation.text import Case, Mark, Unit, cased, join, parse

_ASKS = frozenset(
    "what who whom whose where when why how which do does did is are was were am can could would will shall should "
    "have has had may might isn't aren't don't doesn't didn't can't won't".split()
)
_COMMA_BEFORE = frozenset({"but", "which"})


def punctuate(text: str) -> str:
    """One sentence a segment: a capital first, ``?`` after a word that asks, else a full stop; a comma before "but"."""
    units = parse(text)
    if not units:
        return text.strip()
    written: list[Unit] = []
    for i, unit in enumerate(units):
        lower = unit.form.lower()
        own = Case.CAPITALISED if i == 0 or lower == "i" or lower.startswith("i'") else Case.LOWER
        next_word = units[i + 1].form.lower() if i + 1 < len(units) else ""
        mark = Mark.COMMA if unit.last and next_word in _COMMA_BEFORE else Mark.NONE
        written.append(replace(unit, form=cased(unit.form, own), mark=mark, elided=False))
    asks = written[0].form.lower() in _ASKS
    written[-1] = replace(written[-1], mark=Mark.QUESTION if asks else Mark.STOP)
    return join(written)
