"""Builds the casing lexicon out of the truecase statistics and the spellings of the training texts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from engines.punctuation.lexicon import Lexicon, Prior
from engines.punctuation.text import Case, Unit, case_of

_SEEN = 2
_SPELLING_SEEN = 3
_SPELLING_SHARE = 0.6


def build(counts: dict[str, int], units: Iterable[Unit]) -> Lexicon:
    """Buckets come from the statistics alone, so that they say as much about unseen texts as about the training's.

    ``units`` of the training texts only add spellings with capitals inside, such as ``YouTube``.
    """
    shares: dict[str, Counter[Case]] = defaultdict(Counter)
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for form, count in counts.items():
        if any(c.isalpha() for c in form) and "\t" not in form and "\n" not in form:
            shares[form.lower()][case_of(form)] += count
            spellings[form.lower()][form] += count
    for unit in units:
        spellings[unit.form.lower()][unit.form] += 1
    buckets = {form: int(_bucket(share)) for form, share in shares.items() if sum(share.values()) >= _SEEN}
    inner = {form: spelling for form, seen in spellings.items() if (spelling := _spelling(seen)) is not None}
    return Lexicon(buckets, inner)


def _bucket(share: Counter[Case]) -> Prior:
    total = sum(share.values())
    lower = share[Case.LOWER] / total
    if lower >= 0.8:
        return Prior.LOWER
    if lower >= 0.5:
        return Prior.MOSTLY_LOWER
    if lower >= 0.02:
        return Prior.MOSTLY_CAPITALISED
    return (
        Prior.CAPITALISED if share[Case.CAPITALISED] >= share[Case.UPPER] + share[Case.MIXED] else Prior.UPPER_OR_MIXED
    )


def _spelling(seen: Counter[str]) -> str | None:
    form, count = seen.most_common(1)[0]
    total = sum(seen.values())
    if (
        case_of(form) != Case.MIXED
        or not form[0].isalpha()
        or count < _SPELLING_SEEN
        or count < _SPELLING_SHARE * total
    ):
        return None
    return form
