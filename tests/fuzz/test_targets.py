"""The fuzz targets with Hypothesis: quick, and with examples that are smaller than what broke them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import targets

JSON = st.recursive(
    # Lone surrogates too: escaped, JSON can hold them.
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=6),
    max_leaves=10,
)
FIELD = st.sampled_from(targets._NAMES)
MESSAGE = st.dictionaries(FIELD | st.text(max_size=5), st.sampled_from(targets._VALUES) | JSON, max_size=8)


@pytest.mark.parametrize("name", targets.TARGETS)
@given(data=st.binary(max_size=400))
@settings(deadline=None, max_examples=300)
def test_bytes(name: str, data: bytes) -> None:
    targets.TARGETS[name](data)


@given(message=MESSAGE | JSON, escaped=st.booleans())
@settings(deadline=None, max_examples=500)
def test_json(message: Any, escaped: bool) -> None:
    # Python writes NaN, infinities and lone surrogates, which are no JSON: a client may do so too.
    targets.stream_text(json.dumps(message, ensure_ascii=escaped).encode("utf-8", "surrogatepass"))


@given(st.integers(0, 20_000))
@settings(deadline=None, max_examples=20)
def test_nesting(depth: int) -> None:
    targets.stream_text(b'{"type":' + b"[" * depth + b"]" * depth + b"}")
    targets.stream_text(b'{"a":' * depth)


PATH = st.text(st.sampled_from("abz019._~:-%/?&=+;é\0 "), max_size=150)
QUERY = st.lists(
    st.tuples(
        st.sampled_from(["encoding", "language", "after", "x", ""]),
        st.sampled_from(["mulaw", "alaw", "en", "FR-fr", "-1", "7", "9" * 5000, "-", "٣", "", "%00", "%ff"]),
    ),
    max_size=5,
)


@given(path=PATH, query=QUERY)
@settings(deadline=None, max_examples=300)
def test_paths(path: str, query: list[tuple[str, str]]) -> None:
    pairs = "&".join(f"{name}={value}" for name, value in query)
    targets.telephone_path(f"{path}?{pairs}".encode("latin-1", "replace"))
