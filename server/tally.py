"""Counters for what happens thousands of times a second.

Those of prometheus_client take a lock for every increment, so that any thread may count. These belong to the event
loop, where they are also read, and cost a tenth.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import INF, floatToGoString


class Tally(Collector):
    """A counter without labels; its name may end in ``_total``."""

    def __init__(self, name: str, documentation: str, *, registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._value = 0.0
        registry.register(self)

    def inc(self, amount: float = 1.0) -> None:
        """Counts; on the event loop only."""
        self._value += amount

    def describe(self) -> Iterable[CounterMetricFamily]:
        """For the registry, which refuses names that it has."""
        yield CounterMetricFamily(self._name, self._documentation)

    def collect(self) -> Iterable[CounterMetricFamily]:
        """For the registry."""
        yield CounterMetricFamily(self._name, self._documentation, value=self._value)


class Spread(Collector):
    """A histogram without labels."""

    def __init__(self, name: str, documentation: str, *, buckets: Sequence[float], registry: CollectorRegistry) -> None:
        """`buckets` are the upper edges, ascending, without infinity."""
        self._name = name
        self._documentation = documentation
        self._edges = [*buckets, INF]
        self._counts = [0] * len(self._edges)
        self._sum = 0.0
        registry.register(self)

    def observe(self, value: float) -> None:
        """Takes a value; on the event loop only."""
        # An edge belongs to the bucket that it ends.
        self._counts[bisect_left(self._edges, value)] += 1
        self._sum += value

    def describe(self) -> Iterable[HistogramMetricFamily]:
        """For the registry, which refuses names that it has."""
        yield HistogramMetricFamily(self._name, self._documentation)

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """For the registry."""
        edges = map(floatToGoString, self._edges)
        buckets = [(edge, float(count)) for edge, count in zip(edges, accumulate(self._counts), strict=True)]
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=self._sum)
