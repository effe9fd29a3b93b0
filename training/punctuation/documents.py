"""Cleans documents into labelled units and splits them, whole documents at a time, for training, tuning and testing."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from engines.punctuation.lexicon import Lexicon, Prior
from engines.punctuation.text import SENTENCE_ENDS, Case, Mark, Unit, case_of, parse
from training.punctuation.sources import Document

HELD_OUT = {("austen", "sensesensibility"), ("bible", "Luke")}
"""Long works that are tested on as a whole; the first is also read aloud in the test recordings."""

UNKNOWN_CASE = -1
"""No casing can be learnt here: a sentence start hides the word's own."""

_CHAT_BAD = re.compile(r"https?:|www\.|[<>@#*_=^~|\\{}\[\]]|:\)|:\(|;\)|:D|:P|[^\x00-\x7f‘’“”—–…é]")
_LOWER_START = re.compile(r"[.?!]\s+[a-z]")


@dataclass(frozen=True, slots=True)
class Labelled:
    """A passage as units with their true marks and casing; ``cases`` hold each unit's own, sentence starts apart."""

    units: tuple[Unit, ...]
    cases: tuple[int, ...]


def split_of(document: Document) -> str:
    """``train``, ``dev`` or ``test``, by a hash of the name so that it never depends on order."""
    if (document.source, document.name) in HELD_OUT:
        return "test"
    if document.source in ("austen", "bible"):
        return "train"
    share = hashlib.sha256(f"{document.source}/{document.name}".encode()).digest()[0]
    return "test" if share < 10 else "dev" if share < 15 else "train"


def label(document: Document, lexicon: Lexicon) -> list[Labelled]:
    """The document's clean passages with labels."""
    texts: Iterable[str] = document.passages
    if document.source == "chat":
        texts = _chat_runs(document.passages)
    labelled = (_label(_clean(text), lexicon) for text in texts)
    return [passage for passage in labelled if len(passage.units) > 1]


def _chat_runs(messages: Iterable[str]) -> Iterator[str]:
    """Joins neighbouring messages that are typed with care; a careless one ends the run."""
    run: list[str] = []
    for message in messages:
        text = re.sub(r"([.?!])[.?!]*\1", r"\1", message) if "..." not in message else message
        if _is_careful(text):
            run.append(text)
        elif run:
            yield " ".join(run)
            run = []
    if run:
        yield " ".join(run)


def _is_careful(text: str) -> bool:
    words = text.split()
    shouted = sum(len(word) > 3 and word.isupper() for word in words)
    return (
        bool(re.match(r"[A-Z\"'‘“\d]", text))
        and bool(re.search(r"[.?!][\"'’”]?$", text))
        and not _CHAT_BAD.search(text)
        and not _LOWER_START.search(text)
        and shouted <= len(words) // 4
        and not re.search(r"\b(im|dont|didnt|cant|youre|thats|ive|doesnt|whats|isnt)\b", text)
    )


def _clean(text: str) -> str:
    """Takes out what nobody says: brackets, quotation marks, italics, headings."""
    text = re.sub(r"\([^()]*\)|\[[^\[\]]*\]", " ", text)
    text = re.sub(r"[\"“”«»_*]|(?<!\w)['‘]|['’](?!\w)(?<![sS]['’])", "", text)
    text = re.sub(r"\s+([,.;:?!])", r"\1", text)
    return "" if re.match(r"(CHAPTER|VOLUME|THE END|Chapter)\b", text) else text


def _label(text: str, lexicon: Lexicon) -> Labelled:
    units = parse(text)
    marked: list[Unit] = []
    for i, unit in enumerate(units):
        goes_on = i + 1 < len(units) and units[i + 1].form[0].islower()
        marked.append(
            replace(unit, form=_true_form(unit.form, lexicon), mark=_true_mark(unit, goes_on=goes_on), elided=False)
        )
    cases: list[int] = []
    starts = True
    for unit in marked:
        cases.append(_own_case(unit.form, lexicon) if starts else int(case_of(unit.form)))
        starts = unit.mark in SENTENCE_ENDS
    return Labelled(tuple(marked), tuple(cases))


def _true_form(form: str, lexicon: Lexicon) -> str:
    """Mends a typist's ``i`` and takes back capitals that only shout or stress."""
    if re.match(r"i(['’]|$)", form):
        return "I" + form[1:]
    stressed = case_of(form) == Case.UPPER and lexicon.prior(form.lower()) == Prior.LOWER
    return form.lower() if stressed else form


def _true_mark(unit: Unit, *, goes_on: bool) -> int:
    """A mark that ends a sentence cannot stand before a lower-case word: there it is a pause, or part of a word."""
    mark = Mark.STOP if unit.elided else unit.mark
    if not goes_on or mark not in SENTENCE_ENDS:
        return int(mark)
    return int(Mark.NONE if mark == Mark.STOP and not unit.elided else Mark.COMMA)


def _own_case(form: str, lexicon: Lexicon) -> int:
    """What the casing of a sentence's first word would be inside the sentence, where that can be known."""
    case = case_of(form)
    if case in (Case.LOWER, Case.UPPER, Case.MIXED) or re.match(r"I(['’]|$)", form):
        return int(case)
    prior = lexicon.prior(form.lower())
    known = {Prior.LOWER: Case.LOWER, Prior.CAPITALISED: Case.CAPITALISED}
    return int(known.get(Prior(prior), UNKNOWN_CASE))
