"""How late finals are."""

from __future__ import annotations

from server.inference.delays import MAX_KEPT, MEMORY_S, DelayEstimate


def test_without_finals_there_is_no_delay() -> None:
    assert DelayEstimate().p95(0.0) == 0.0


def test_the_95th_percentile_of_what_is_remembered() -> None:
    delays = DelayEstimate()
    for n in range(100):
        delays.add(n / 100, now=n / 10)
    assert delays.p95(10.0) == 0.95


def test_old_delays_are_forgotten() -> None:
    delays = DelayEstimate()
    delays.add(5.0, now=0.0)
    delays.add(0.1, now=MEMORY_S)
    assert delays.p95(MEMORY_S) == 5.0
    assert delays.p95(MEMORY_S + 1) == 0.1
    assert delays.p95(2 * MEMORY_S + 1) == 0.0


def test_it_does_not_grow() -> None:
    delays = DelayEstimate()
    for _ in range(3):
        for _ in range(MAX_KEPT):
            delays.add(9.0, now=0.0)
    for _ in range(MAX_KEPT):
        delays.add(1.0, now=0.0)
    assert delays.p95(0.0) == 1.0
