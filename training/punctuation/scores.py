"""Counts of right and wrong marks and casing, and what follows from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from engines.punctuation.text import MARKS, SENTENCE_ENDS, Mark, Unit


@dataclass(slots=True)
class Scores:
    """Marks counted unit by unit.

    Attributes:
        right: by mark, how often it was set where it belongs.
        set_: by mark, how often it was set.
        true: by mark, how often it belongs.
        cased: units whose letters have the true casing, and all units that have letters.
    """

    right: Counter[int] = field(default_factory=Counter)
    set_: Counter[int] = field(default_factory=Counter)
    true: Counter[int] = field(default_factory=Counter)
    cased: list[int] = field(default_factory=lambda: [0, 0])

    def add(self, truth: Sequence[Unit], written: Sequence[Unit]) -> None:
        """Counts one text against its truth, unit by unit; raises ValueError where the units do not pair."""
        for want, got in zip(truth, written, strict=True):
            self.add_mark(want.mark, got.mark)
            self.add_case(want.form, got.form)

    def add_mark(self, want: int, got: int) -> None:
        """Counts one place; `ANY_END` collects the marks that end a sentence as one."""
        for mark in {want, *([ANY_END] if want in SENTENCE_ENDS else [])}:
            self.true[mark] += 1
        for mark in {got, *([ANY_END] if got in SENTENCE_ENDS else [])}:
            self.set_[mark] += 1
        if want == got:
            self.right[want] += 1
        if want in SENTENCE_ENDS and got in SENTENCE_ENDS:
            self.right[ANY_END] += 1

    def add_case(self, want: str, got: str) -> None:
        """Counts one word's casing where it has letters."""
        if any(c.isalpha() for c in want):
            self.cased[0] += want == got
            self.cased[1] += 1

    def f1(self, mark: int) -> float:
        """The harmonic mean of precision and recall; 0 where the mark neither occurs nor was set."""
        both = self.set_[mark] + self.true[mark]
        return 2 * self.right[mark] / both if both else 0.0

    @property
    def marks_f1(self) -> float:
        """F1 over all marks together (each must be the right one)."""
        marks = range(1, len(MARKS))
        right, both = sum(self.right[m] for m in marks), sum(self.set_[m] + self.true[m] for m in marks)
        return 2 * right / both if both else 0.0

    @property
    def casing(self) -> float:
        """The share of units with the true casing."""
        return self.cased[0] / self.cased[1] if self.cased[1] else 0.0


ANY_END = len(MARKS)
"""Counts every mark that ends a sentence as the same mark."""

COLUMNS = (Mark.STOP, Mark.QUESTION, Mark.COMMA, Mark.EXCLAMATION, ANY_END)


def table(rows: Sequence[tuple[str, Scores]]) -> str:
    """A Markdown table of F1 by mark, all marks together, and casing accuracy."""
    lines = [
        "| | full stop | question | comma | exclamation | any sentence end | all marks | casing |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, scores in rows:
        figures = [scores.f1(mark) for mark in COLUMNS] + [scores.marks_f1, scores.casing]
        lines.append(f"| {name} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |")
    return "\n".join(lines)
