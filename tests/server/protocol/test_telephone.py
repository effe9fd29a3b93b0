from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.protocol.stream import MAX_OFFSET, InvalidMessageError
from server.protocol.telephone import PREFIX, Call, encode, parse
from server.session.messages import Ack, Partial
from session_store.base import Final

LANGUAGES = frozenset({"en", "fr"})


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("call-17", Call("call-17")),
        ("a%2Eb?encoding=alaw&language=FR-fr&after=3", Call("a.b", "alaw", "fr", 3)),
        ("c?after=-1", Call("c", after=-1)),
        ("c?after=-9", Call("c", after=-1)),
        ("c?after=999999999999999999", Call("c", after=MAX_OFFSET)),
        ("c?encoding=alaw&encoding=mulaw&else=1", Call("c", "mulaw")),
    ],
)
def test_calls(target: str, expected: Call) -> None:
    assert parse(PREFIX + target, LANGUAGES) == expected


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ("", "session_id"),
        ("a/b", "session_id"),
        ("a%0A", "session_id"),
        ("-a", "session_id"),
        ("x" * 121, "session_id"),
        ("c?encoding=pcm_s16le", "encoding: must be mulaw or alaw"),
        ("c?language=xx", "language: choose one of en, fr"),
        ("c?after=", "^$"),
        ("c?after=x", "after"),
        ("c?after=--1", "after"),
        ("c?after=%C2%B2", "after"),
        ("c?after=" + "9" * 5000, "after"),
    ],
)
def test_what_is_no_call(target: str, named: str) -> None:
    if named == "^$":
        # An empty value counts as none.
        assert parse(PREFIX + target, LANGUAGES).after is None
        return
    with pytest.raises(InvalidMessageError, match=named):
        parse(PREFIX + target, LANGUAGES)


@given(st.text(max_size=60))
def test_any_target_is_understood_or_refused(target: str) -> None:
    try:
        call = parse(PREFIX + target, LANGUAGES)
    except InvalidMessageError:
        return
    assert 0 < len(call.session_id) <= 120
    assert call.encoding in ("mulaw", "alaw")


def test_only_words_go_out() -> None:
    partial, final = Partial("a", "en", 1, 0, 1, 0), Final(1, "A.", 0, 1, "en", 0.5, True)
    assert orjson.loads(encode(partial) or "") == {"type": "partial", "text": "a", "seq": 1}
    assert orjson.loads(encode(final) or "") == {"type": "final", "text": "A.", "seq": 1}
    assert encode(Ack(5)) is None
