"""Word error rate between what was said and what was recognised, after both were brought to one way of writing.

The normaliser takes out what is spelling and not recognition: case, punctuation, hyphens, accents on Latin letters
(and the diaeresis of the Russian yo), and digits, which become number words in English, Spanish, French and Russian.
It is applied to both sides alike, so it can hide an error only where two words differ by nothing else.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

import jiwer

from perf.numbers_in_words import in_words

APOSTROPHES = re.compile("['’ʼ`´]")
NUMBERS = re.compile(r"\d+(?:[.,]\d+)*")
GROUPED = re.compile(r"\d{1,3}(?:[.,]\d{3})+")
ORDINAL_MARKS = re.compile(r"(?<=\d)(?:st|nd|rd|th|er|re|eme|ème|º|ª|o|a)\b")
PERCENT = {"en": " percent ", "es": " por ciento ", "fr": " pour cent ", "ru": " процентов "}


@dataclass(frozen=True, slots=True)
class WordErrors:
    """Counts of one comparison; they add up over a corpus."""

    words: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    def __add__(self, other: WordErrors) -> WordErrors:
        """Return the counts of both."""
        return WordErrors(
            self.words + other.words,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    @property
    def errors(self) -> int:
        """Return all errors together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Return errors by words of the reference; 0 for nothing said and nothing recognised, else at least 1 error."""
        return self.errors / max(1, self.words)


def normalize(text: str, language: str = "en") -> list[str]:
    """Return the words of a text in the one way of writing in which texts are compared."""
    language = language.split("-", maxsplit=1)[0].lower()
    text = unicodedata.normalize("NFKC", text).lower()
    text = text.replace("%", PERCENT.get(language, " % "))
    text = ORDINAL_MARKS.sub("", text)
    text = NUMBERS.sub(lambda match: f" {_number(match.group(), language)} ", text)
    # An apostrophe joins in English (it's) and parts in French (l'autre): there the words around it stand alone.
    text = APOSTROPHES.sub(" " if language == "fr" else "", text)
    text = _without_accents(text)
    return re.sub(r"[^\w]+|_", " ", text).split()


def word_errors(reference: str, hypothesis: str, language: str = "en") -> WordErrors:
    """Compare two texts after normalising both."""
    said, heard = normalize(reference, language), normalize(hypothesis, language)
    if not said:
        return WordErrors(insertions=len(heard))
    if not heard:
        return WordErrors(words=len(said), deletions=len(said))
    result = jiwer.process_words(" ".join(said), " ".join(heard))
    return WordErrors(len(said), result.substitutions, result.deletions, result.insertions)


def total(errors: Iterable[WordErrors]) -> WordErrors:
    """Return the counts of a corpus."""
    return sum(errors, WordErrors())


def _number(digits: str, language: str) -> str:
    if GROUPED.fullmatch(digits):
        return in_words(int(re.sub("[.,]", "", digits)), language)
    # What is left of marks inside a number is a decimal point, or a date or version: each part is read on its own.
    return " ".join(_integer(part, language) for part in re.split("[.,]", digits))


def _integer(digits: str, language: str) -> str:
    if len(digits) > 6 or (digits.startswith("0") and len(digits) > 1):
        return " ".join(in_words(int(digit), language) for digit in digits)
    return in_words(int(digits), language)


def _without_accents(text: str) -> str:
    parts: list[str] = []
    for char in unicodedata.normalize("NFD", text):
        if unicodedata.combining(char) and parts:
            base = parts[-1][0]
            # The breve of the Russian short i makes another letter; that of yo is left out by most writers.
            if "LATIN" in unicodedata.name(base, "") or base == "е":
                continue
            parts[-1] += char
        else:
            parts.append(char)
    return unicodedata.normalize("NFC", "".join(parts))
