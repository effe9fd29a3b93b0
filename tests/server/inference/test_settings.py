"""Settings that could never work are refused."""

from __future__ import annotations

import pytest

from server.inference.settings import InferenceSettings, ModelRoute

ROUTE = ModelRoute("asr", frozenset({"en"}))


@pytest.mark.parametrize(
    ("addresses", "models", "reason"),
    [
        ((), (ROUTE,), "addresses: name at least one Triton"),
        (("one:8001",), (), "models: name at least one model"),
        (("one:8001",), (ModelRoute("asr", frozenset()),), "models: asr has no languages"),
        (("one:8001",), (ModelRoute("asr", frozenset({"en"}), -1),), "max_in_flight of asr must not be negative"),
    ],
)
def test_refused(addresses: tuple[str, ...], models: tuple[ModelRoute, ...], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        InferenceSettings(addresses, models)


def test_accepted() -> None:
    assert InferenceSettings(("one:8001",), (ROUTE,)).models == (ROUTE,)
