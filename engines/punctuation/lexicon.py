"""What is known of a word's casing before its sentence is read: a statistics bucket, and unusual spellings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path


class Prior(IntEnum):
    """How a form is mostly written, sentence starts included, in the casing statistics."""

    UNKNOWN = 0
    LOWER = 1
    MOSTLY_LOWER = 2
    MOSTLY_CAPITALISED = 3
    CAPITALISED = 4
    UPPER_OR_MIXED = 5


_POSSESSIVE = re.compile(r"^(.+)(['’]s)$")


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Casing statistics of lower-case forms.

    Attributes:
        buckets: form to `Prior`; a form that is not there is unknown.
        spellings: form to its one spelling with capitals inside, such as ``iphone`` to ``iPhone``.
    """

    buckets: Mapping[str, int] = field(default_factory=dict)
    spellings: Mapping[str, str] = field(default_factory=dict)

    def prior(self, form: str) -> int:
        """The bucket of a lower-case form; a possessive has the bucket of its noun."""
        bucket = self.buckets.get(form)
        if bucket is None and (match := _POSSESSIVE.match(form)):
            bucket = self.buckets.get(match.group(1))
        return Prior.UNKNOWN if bucket is None else bucket

    def spelling(self, form: str) -> str | None:
        """The spelling with capitals inside of a lower-case form, possessives included; None where there is none."""
        known = self.spellings.get(form)
        if known is None and (match := _POSSESSIVE.match(form)) and match.group(1) in self.spellings:
            known = self.spellings[match.group(1)] + match.group(2)
        return known


def load_lexicon(path: Path) -> Lexicon:
    """Reads a lexicon written by `save_lexicon`; raises OSError or ValueError where the file is not one."""
    buckets: dict[str, int] = {}
    spellings: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        form, bucket, *spelling = line.split("\t")
        if bucket != str(int(Prior.UNKNOWN)):
            buckets[form] = int(bucket)
        if spelling:
            spellings[form] = spelling[0]
    return Lexicon(buckets, spellings)


def save_lexicon(lexicon: Lexicon, path: Path) -> None:
    """Writes one line a form: form, bucket and, where it has one, its spelling, tab separated and sorted."""
    lines = []
    for form in sorted({*lexicon.buckets, *lexicon.spellings}):
        fields = [form, str(int(lexicon.buckets.get(form, 0)))]
        if form in lexicon.spellings:
            fields.append(lexicon.spellings[form])
        lines.append("\t".join(fields))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
