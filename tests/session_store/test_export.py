from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_store.base import Final, SessionSummary
from session_store.export import cues, export


def final(seq: int, text: str, start: float, end: float) -> Final:
    return Final(seq, text, start, end, "en", 0.5, True)


TWO = [final(0, "It was the best of times.", 0.25, 1.5), final(1, "1 < 2 & 3 --> 4", 3661.0, 3662.0625)]


def test_text() -> None:
    assert export(TWO, "text") == "It was the best of times.\n1 < 2 & 3 --> 4\n"
    assert export([final(0, "one\ntwo", 0, 1), final(1, " ", 1, 2)], "text") == "one two\n"
    assert export([], "text") == ""


def test_json() -> None:
    summary = SessionSummary("s", "label", "en", 1.0, 2.0, 2, 3.0, ended=True)
    document = json.loads(export(TWO, "json", session=summary))
    assert document["session_id"] == "s"
    assert document["ended"] is True
    assert document["finals"][1] == {
        "seq": 1,
        "text": "1 < 2 & 3 --> 4",
        "start": 3661.0,
        "end": 3662.0625,
        "language": "en",
        "confidence": 0.5,
        "punctuated": True,
    }
    assert json.loads(export([], "json")) == {"finals": []}


def test_srt() -> None:
    assert export(TWO, "srt") == (
        "1\n00:00:00,250 --> 00:00:01,500\nIt was the best of times.\n\n"
        "2\n01:01:01,000 --> 01:01:02,062\n1 < 2 & 3 -> 4\n\n"
    )


def test_vtt() -> None:
    assert export(TWO, "vtt") == (
        "WEBVTT\n"
        "\n00:00:00.250 --> 00:00:01.500\nIt was the best of times.\n"
        "\n01:01:01.000 --> 01:01:02.062\n1 &lt; 2 &amp; 3 --&gt; 4\n"
    )
    assert export([], "vtt") == "WEBVTT\n"


def test_a_long_final_becomes_several_subtitles_of_two_lines() -> None:
    text = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of " * 3
    shown = list(cues([final(0, text, 1.0, 13.0)]))
    assert len(shown) > 2
    assert shown[0].start_ms == 1000
    assert shown[-1].end_ms == 13000
    assert " ".join(" ".join(cue.lines) for cue in shown) == text.strip()


def test_finals_that_overlap_do_not_as_subtitles() -> None:
    shown = list(cues([final(0, "one", 0.0, 5.0), final(1, "two", 4.0, 6.0), final(2, "three", 4.0, 4.0)]))
    assert [(cue.start_ms, cue.end_ms, cue.lines) for cue in shown] == [
        (0, 4000, ("one",)),
        (4000, 4001, ("two",)),
        (4001, 4002, ("three",)),
    ]


def test_unknown_format() -> None:
    with pytest.raises(ValueError, match="text, json, srt, vtt"):
        export([], "docx")


_finals = st.lists(
    st.builds(
        final,
        st.integers(0, 100),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=400),
        st.floats(0, 36000),
        st.floats(0, 36000),
    ),
    max_size=8,
)


@given(_finals)
def test_whatever_was_said_the_subtitles_are_legal(finals: list[Final]) -> None:
    shown = list(cues(finals))
    last = 0
    for cue in shown:
        assert last <= cue.start_ms < cue.end_ms
        assert 1 <= len(cue.lines) <= 2
        assert all(0 < len(line) <= 42 for line in cue.lines)
        last = cue.end_ms
    assert re.sub(r"\s", "", "".join("".join(cue.lines) for cue in shown)) == re.sub(
        r"\s", "", "".join(f.text for f in sorted(finals, key=lambda f: (f.start, f.seq)))
    )
    # A reader splits at empty lines: as many blocks as subtitles, each with one line of times.
    for form, clock in (("srt", r"\d\d:\d\d:\d\d,\d{3}"), ("vtt", r"\d\d:\d\d:\d\d\.\d{3}")):
        document = export(finals, form).replace("\r\n", "\n").replace("\r", "\n")
        blocks = [block for block in re.split(r"\n{2,}", document) if block.strip("\n") and block.strip() != "WEBVTT"]
        assert len(blocks) == len(shown)
        assert all(len(re.findall(rf"^{clock} --> {clock}$", block, re.MULTILINE)) == 1 for block in blocks)
        assert document.count("-->") == len(shown)
