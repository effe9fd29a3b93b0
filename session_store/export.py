"""Transcripts as text, JSON and subtitles.

Subtitles follow the usual limits (Netflix Timed Text Style Guide, General Requirements): two lines of 42 characters.
WebVTT's escapes are those of https://www.w3.org/TR/webvtt1/#webvtt-cue-text-span.
"""

from __future__ import annotations

import html
import itertools
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import orjson

from session_store.base import Final, SessionSummary

FORMATS = ("text", "json", "srt", "vtt")

_LINE_CHARS = 42
_CUE_LINES = 2


@dataclass(frozen=True, slots=True)
class Cue:
    """One subtitle: `lines` shown from `start_ms` to `end_ms`, milliseconds of audio."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]


def export(finals: Sequence[Final], form: str, *, session: SessionSummary | None = None) -> str:
    """The finals in one of `FORMATS`, ending in a newline.

    Args:
        finals: in the order of their seq.
        form: ``text`` is a line for each final; ``json`` holds all fields; ``srt`` and ``vtt`` are subtitles.
        session: its fields go into ``json``.

    Raises:
        ValueError: no such format.
    """
    match form:
        case "text":
            return "".join(f"{' '.join(final.text.split())}\n" for final in finals if final.text.strip())
        case "json":
            head = asdict(session) if session is not None else {}
            document = {**head, "finals": [asdict(final) for final in finals]}
            return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()
        case "srt":
            return "".join(_srt(number, cue) for number, cue in enumerate(cues(finals), 1))
        case "vtt":
            return "WEBVTT\n" + "".join(f"\n{_vtt(cue)}" for cue in cues(finals))
    raise ValueError(f"no such format: {form!r}; there are {', '.join(FORMATS)}")


def cues(finals: Sequence[Final]) -> Iterator[Cue]:
    """The finals as subtitles that follow one another and never overlap.

    A final too long for one subtitle becomes several, its time shared out by their number of characters.
    """
    free_from = 0
    ordered = sorted((final for final in finals if final.text.strip()), key=lambda final: (final.start, final.seq))
    for final, following in itertools.zip_longest(ordered, ordered[1:]):
        end = _ms(final.end) if following is None else min(_ms(final.end), _ms(following.start))
        for cue in _split(final.text, max(_ms(final.start), free_from), end):
            free_from = cue.end_ms
            yield cue


def _split(text: str, start: int, end: int) -> Iterator[Cue]:
    lines = textwrap.wrap(text, _LINE_CHARS, break_on_hyphens=False)
    blocks = [tuple(lines[i : i + _CUE_LINES]) for i in range(0, len(lines), _CUE_LINES)]
    # At least a millisecond each: a subtitle that ends where it begins is not a legal one.
    span = max(end - start, len(blocks))
    total = sum(len("".join(block)) for block in blocks)
    shown = 0
    begin = start
    for number, block in enumerate(blocks, 1):
        shown += len("".join(block))
        stop = max(begin + 1, min(start + span * shown // total, start + span - (len(blocks) - number)))
        yield Cue(begin, stop, block)
        begin = stop


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))


def _clock(ms: int, mark: str) -> str:
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{mark}{ms:03}"


def _srt(number: int, cue: Cue) -> str:
    # SubRip has no escapes; an arrow in the text would be read as a line of times.
    text = "\n".join(cue.lines).replace("-->", "->")
    return f"{number}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n{text}\n\n"


def _vtt(cue: Cue) -> str:
    text = html.escape("\n".join(cue.lines), quote=False)
    return f"{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n{text}\n"
