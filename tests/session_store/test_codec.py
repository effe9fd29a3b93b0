from __future__ import annotations

import orjson
import pytest

from session_store.base import SessionState
from session_store.codec import clean_text, dump_state, is_id, load_state

STATE = SessionState("s", bytes(32), "k", {"a": [1, None, "ü"]}, 2**53, 7, "tail", ({"type": "finalize"},))


def test_a_state_comes_back_whole() -> None:
    assert load_state("s", bytes(32), "k", dump_state(STATE)) == STATE


def test_fields_of_a_newer_version_are_ignored() -> None:
    body = orjson.dumps({**orjson.loads(dump_state(STATE)), "new": 1})
    assert load_state("s", bytes(32), "k", body) == STATE


def test_neither_hash_nor_ids_are_in_the_body() -> None:
    assert set(orjson.loads(dump_state(STATE))) == {"settings", "acked", "next_seq", "tail", "marks"}


def test_clean_text() -> None:
    assert clean_text("a\0b\ud800c😀\n") == "ab?c😀\n"


@pytest.mark.parametrize("good", ["a", "x" * 128, "ä.-_~:/", "నమ"])
def test_ids(good: str) -> None:
    assert is_id(good)


@pytest.mark.parametrize("bad", ["", "x" * 129, " ", "a b", "a\t", "\u00a0", "a\u200b", "\0"])
def test_bad_ids(bad: str) -> None:
    assert not is_id(bad)
