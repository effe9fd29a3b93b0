from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.protocol.stream import (
    MAX_ID,
    MAX_LABEL,
    MAX_OFFSET,
    MAX_TOKEN,
    End,
    Finalize,
    InvalidMessageError,
    KeepAlive,
    Request,
    Resume,
    Start,
    encode,
    parse,
    resolve_language,
    returning_session,
)
from server.session.messages import (
    Ack,
    Done,
    Error,
    Finalized,
    Message,
    Opened,
    Partial,
    SpeechEnded,
    SpeechStarted,
)
from session_store.base import Final

LANGUAGES = frozenset({"en", "fr", "te", "pt-br"})


def read(**values: Any) -> Request:
    return parse(json.dumps(values), LANGUAGES)


def complaint(**values: Any) -> str:
    request = read(**values)
    assert isinstance(request, Start)
    [text] = request.complaints
    return text


# Requests


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"type": "start"}, Start()),
        ({"type": "start", "language": None, "from_the_future": [1]}, Start()),
        ({"language": "te"}, Start({"language": "te"}, language_only=True)),
        ({"language": "EN-us"}, Start({"language": "en"}, language_only=True)),
        ({"language": "te", "partials": False}, Start({"language": "te"}, language_only=True)),
        ({"language": None}, Start({}, language_only=True)),
        ({"type": "finalize", "id": "a1"}, Finalize("a1")),
        ({"type": "finalize"}, Finalize(None)),
        ({"type": "finalize", "id": "x" * MAX_ID}, Finalize("x" * MAX_ID)),
        ({"type": "keepalive"}, KeepAlive()),
        ({"type": "end", "more": 1}, End()),
        ({"type": "resume", "token": "t", "last_seq": -1, "from_offset": 0}, Resume("t", -1, 0)),
        (
            {"type": "resume", "token": "t", "last_seq": 3, "from_offset": MAX_OFFSET},
            Resume("t", 3, MAX_OFFSET),
        ),
    ],
)
def test_requests(values: dict[str, Any], expected: Request) -> None:
    assert read(**values) == expected


def test_a_whole_start() -> None:
    values = {
        "language": "fr",
        "encoding": "mulaw",
        "sample_rate": 8000,
        "partials": False,
        "punctuate": False,
        "endpoint_silence_ms": 200,
        "session_label": "x" * MAX_LABEL,
    }
    assert read(type="start", **values) == Start(values)


def test_bytes_are_read_as_well() -> None:
    assert parse(b'{"type":"end"}', LANGUAGES) == End()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"language": "xx"}, 'language: "xx" is not served here; choose one of en, fr, pt-br, te'),
        ({"type": "start", "language": "l" * 99}, f'language: "{"l" * 39}… is not served here'),
        ({"type": "start", "endpoint_silence_ms": 199}, "endpoint_silence_ms: must be 200 to 3000; got 199"),
        ({"type": "start", "endpoint_silence_ms": 3001}, "endpoint_silence_ms: must be 200 to 3000; got 3001"),
        ({"type": "start", "session_label": "x" * 201}, "session_label: at most 200 characters; got 201"),
    ],
)
def test_values_that_cannot_be_had_are_complained_about(values: dict[str, Any], text: str) -> None:
    assert complaint(**values).startswith(text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "must be a JSON object"),
        ("hello", "must be a JSON object"),
        ("[1]", "must be a JSON object"),
        ('"end"', "must be a JSON object"),
        ("null", "must be a JSON object"),
        ('{"type":"end"', "must be a JSON object"),
        ('{"type":NaN}', "must be a JSON object"),
        ("[" * 5000, "must be a JSON object"),
        ("{}", "type: must be one of start, resume, finalize, keepalive, end; got null"),
        ('{"type":"stop"}', 'type: must be one of .*; got "stop"'),
        ('{"type":["end"]}', "type: must be one of"),
        ('{"type":null,"language":"en"}', "type: must be one of"),
        ('{"language":5}', "language: must be text; got 5"),
        ('{"type":"start","language":["en"]}', r'language: must be text; got \["en"\]'),
        ('{"type":"start","encoding":"opus"}', 'encoding: must be one of pcm_s16le, .*; got "opus"'),
        ('{"type":"start","encoding":1}', "encoding: must be text"),
        ('{"type":"start","sample_rate":7999}', "sample_rate: must be 8000 to 48000 Hz; got 7999"),
        ('{"type":"start","sample_rate":48001}', "sample_rate: must be 8000 to 48000 Hz"),
        ('{"type":"start","sample_rate":16000.0}', "sample_rate: must be a whole number; got 16000.0"),
        ('{"type":"start","sample_rate":true}', "sample_rate: must be a whole number; got true"),
        ('{"type":"start","partials":1}', "partials: must be true or false; got 1"),
        ('{"type":"start","punctuate":"no"}', "punctuate: must be true or false"),
        ('{"type":"start","endpoint_silence_ms":"500"}', "endpoint_silence_ms: must be a whole number"),
        ('{"type":"start","session_label":{}}', "session_label: must be text"),
        ('{"type":"finalize","id":7}', "id: must be text"),
        ('{"type":"finalize","id":"%s"}' % ("x" * 201), "id: at most 200 characters; got 201"),
        ('{"type":"resume"}', "token: must be the text"),
        ('{"type":"resume","token":"","last_seq":0,"from_offset":0}', "token"),
        ('{"type":"resume","token":"%s","last_seq":0,"from_offset":0}' % ("t" * (MAX_TOKEN + 1)), "token"),
        ('{"type":"resume","token":"t","from_offset":0}', "last_seq: must be a whole number from -1; got null"),
        ('{"type":"resume","token":"t","last_seq":-2,"from_offset":0}', "last_seq: must be a whole number from -1"),
        ('{"type":"resume","token":"t","last_seq":true,"from_offset":0}', "last_seq"),
        ('{"type":"resume","token":"t","last_seq":0,"from_offset":-1}', "from_offset: must be a whole number from 0"),
        ('{"type":"resume","token":"t","last_seq":0,"from_offset":1e30}', "from_offset"),
        (f'{{"type":"resume","token":"t","last_seq":0,"from_offset":{MAX_OFFSET + 1}}}', "from_offset"),
    ],
)
def test_what_is_no_message(text: str, named: str) -> None:
    with pytest.raises(InvalidMessageError, match=named):
        parse(text, LANGUAGES)


def test_no_secret_is_repeated() -> None:
    with pytest.raises(InvalidMessageError) as caught:
        read(type="resume", token="sesame" * 99, last_seq=0, from_offset=0)
    assert "sesame" not in str(caught.value)


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_fields = st.sampled_from(
    (
        "type", "language", "encoding", "sample_rate", "partials", "punctuate", "endpoint_silence_ms",
        "session_label", "id", "token", "last_seq", "from_offset",
    )
)  # fmt: skip
_types = st.sampled_from(("start", "resume", "finalize", "keepalive", "end"))


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(_fields, _json | _types, max_size=6))
def test_any_object_is_understood_or_refused(values: dict[str, Any]) -> None:
    refusal = ""
    try:
        assert isinstance(parse(json.dumps(values), LANGUAGES), Start | Resume | Finalize | KeepAlive | End)
    except InvalidMessageError as error:
        refusal = str(error) or "no reason given"
    assert refusal != "no reason given"
    assert len(refusal) < 400


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.binary(max_size=60))
def test_any_text_is_understood_or_refused(text: str | bytes) -> None:
    with pytest.raises(InvalidMessageError):
        parse(text, LANGUAGES)


@pytest.mark.parametrize(
    ("given", "code"),
    [("en", "en"), ("EN", "en"), (" en_us ", "en"), ("pt-BR", "pt-br"), ("pt", None), ("", None), ("xx-en", None)],
)
def test_languages(given: str, code: str | None) -> None:
    assert resolve_language(given, LANGUAGES) == code


# Messages


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            Opened("s", "s.secret", True, "en", "mulaw", 8000, 160, 2, 60.0),
            {
                "type": "session",
                "session_id": "s",
                "token": "s.secret",
                "resumed": True,
                "language": "en",
                "encoding": "mulaw",
                "sample_rate": 8000,
                "audio_offset": 160,
                "next_seq": 2,
                "resume_window_s": 60.0,
            },
        ),
        (
            Partial("où", "fr", 1, 0.12345, 2.0, 1),
            {
                "type": "partial",
                "text": "où",
                "is_final": False,
                "language": "fr",
                "seq": 1,
                "start": 0.123,
                "end": 2.0,
                "stable": 1,
            },
        ),
        (
            Final(1, "Où ?", 0.12345, 2.0, "fr", 0.123456, True),
            {
                "type": "final",
                "text": "Où ?",
                "is_final": True,
                "language": "fr",
                "seq": 1,
                "start": 0.123,
                "end": 2.0,
                "confidence": 0.1235,
                "punctuated": True,
            },
        ),
        (Ack(5), {"type": "ack", "audio_offset": 5}),
        (SpeechStarted(1.23456), {"type": "speech_started", "at": 1.235}),
        (SpeechEnded(1.23456), {"type": "speech_ended", "at": 1.235}),
        (Finalized("a", 5), {"type": "finalized", "id": "a", "audio_offset": 5}),
        (Finalized(None, 5), {"type": "finalized", "id": None, "audio_offset": 5}),
        (
            Error(1011, "why", recoverable=True),
            {"type": "error", "code": 1011, "message": "why", "recoverable": True},
        ),
        (
            Error(1013, "why", recoverable=False, retry_after_ms=0),
            {"type": "error", "code": 1013, "message": "why", "recoverable": False, "retry_after_ms": 0},
        ),
        (Done(9, 2, 1.23456), {"type": "done", "audio_offset": 9, "segments": 2, "audio_seconds": 1.235}),
    ],
)
def test_messages(message: Message, expected: dict[str, Any]) -> None:
    assert orjson.loads(encode(message)) == expected


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ("/stream", None),
        ("/stream?", None),
        ("/stream?resume=0123456789abcdef", "0123456789abcdef"),
        ("/stream?tenant=x&resume=a&resume=b", "b"),
        ("/stream?resume=call%2D1", "call-1"),
        ("/stream?resume=", None),
        ("/stream?resume=a%20b", None),
        ("/stream?resume=a%00", None),
        (f"/stream?resume={'x' * 129}", None),
        ("/stream?Resume=a", None),
    ],
)
def test_a_session_can_be_named_before_the_upgrade(target: str, named: str | None) -> None:
    assert returning_session(target) == named
