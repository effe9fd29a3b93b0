"""Counters of the event loop against those of prometheus_client."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from server.tally import Spread, Tally


def text(registry: CollectorRegistry) -> list[str]:
    # When a metric was made stands beside those of prometheus_client; nobody asks for it here.
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


def test_a_tally_reads_as_a_counter() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    for counter in (
        Tally("audio_seconds_total", "Audio.", registry=ours),
        Counter("audio_seconds_total", "Audio.", registry=theirs),
    ):
        counter.inc()
        counter.inc(0.25)
    assert text(ours) == text(theirs)
    assert ours.get_sample_value("audio_seconds_total") == 1.25


def test_a_spread_reads_as_a_histogram() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    edges = (0.0005, 0.5, 1, 2)
    for histogram in (
        Spread("wait_seconds", "Wait.", buckets=edges, registry=ours),
        Histogram("wait_seconds", "Wait.", buckets=edges, registry=theirs),
    ):
        for value in (0.0, 0.0005, 0.25, 0.5, 0.75, 2, 3):
            histogram.observe(value)
    assert text(ours) == text(theirs)
    assert ours.get_sample_value("wait_seconds_bucket", {"le": "0.5"}) == 4


def test_a_name_is_given_once() -> None:
    registry = CollectorRegistry()
    Tally("frames_total", "Frames.", registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        Counter("frames_total", "Frames.", registry=registry)
