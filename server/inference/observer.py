"""What inference tells whoever measures it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge, Histogram

    from server.metrics import Metrics


class InferenceObserver(Protocol):
    """Told what happens. The methods are called on the event loop, often, and must not raise or block."""

    def request_done(self, model: str, kind: str, seconds: float, outcome: str) -> None:
        """A call to Triton has ended.

        Args:
            model: its name.
            kind: `partial`, `final`, `punctuation` or `probe`.
            seconds: from sending to the answer.
            outcome: `ok`, `refused`, `failed`, `late`, `gone` or `cancelled`.
        """

    def work_changed(self, model: str, in_flight: int, waiting_finals: int, waiting_partials: int) -> None:
        """How much work a model has; told after each round of sending."""

    def replica_changed(self, address: str, model: str, is_up: bool, reason: str) -> None:
        """A model at one Triton has been given up or taken into use again."""

    def healed(self, address: str, model: str, seconds: float, worked: bool) -> None:
        """A model has been unloaded and loaded."""

    def retried(self, model: str) -> None:
        """A final is sent again."""

    def draft_used(self, model: str, tokens: int, kept: int) -> None:
        """A window with a draft has been answered; the answer begins with the first `kept` of its tokens."""


class NullObserver:
    """Measures nothing."""

    def request_done(self, model: str, kind: str, seconds: float, outcome: str) -> None:
        """Ignored."""

    def work_changed(self, model: str, in_flight: int, waiting_finals: int, waiting_partials: int) -> None:
        """Ignored."""

    def replica_changed(self, address: str, model: str, is_up: bool, reason: str) -> None:
        """Ignored."""

    def healed(self, address: str, model: str, seconds: float, worked: bool) -> None:
        """Ignored."""

    def retried(self, model: str) -> None:
        """Ignored."""

    def draft_used(self, model: str, tokens: int, kept: int) -> None:
        """Ignored."""


class MetricsObserver(NullObserver):
    """Writes into the gateway's metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        # Looking children up by their labels costs more than setting them.
        self._outcomes: dict[tuple[str, str, str], Counter] = {}
        self._seconds: dict[tuple[str, str], Histogram] = {}
        self._gauges: dict[str, tuple[Gauge, Gauge, Gauge]] = {}

    def request_done(self, model: str, kind: str, seconds: float, outcome: str) -> None:
        """Counts it, and takes its time if it was answered."""
        counter = self._outcomes.get((model, kind, outcome))
        if counter is None:
            counter = self._outcomes[model, kind, outcome] = self._metrics.requests.labels(model, kind, outcome)
        counter.inc()
        if outcome == "ok":
            histogram = self._seconds.get((model, kind))
            if histogram is None:
                histogram = self._seconds[model, kind] = self._metrics.chunk.labels(model, kind)
            histogram.observe(seconds)

    def work_changed(self, model: str, in_flight: int, waiting_finals: int, waiting_partials: int) -> None:
        """Sets the gauges."""
        gauges = self._gauges.get(model)
        if gauges is None:
            waiting = self._metrics.waiting
            gauges = (
                self._metrics.in_flight.labels(model),
                waiting.labels(model, "final"),
                waiting.labels(model, "partial"),
            )
            self._gauges[model] = gauges
        for gauge, value in zip(gauges, (in_flight, waiting_finals, waiting_partials), strict=True):
            gauge.set(value)

    def replica_changed(self, address: str, model: str, is_up: bool, reason: str) -> None:
        """Sets the gauge."""
        self._metrics.model_up.labels(address, model).set(int(is_up))

    def healed(self, address: str, model: str, seconds: float, worked: bool) -> None:
        """Counts it."""
        self._metrics.heals.labels(model, "ok" if worked else "failed").inc()

    def retried(self, model: str) -> None:
        """Counts it."""
        self._metrics.retries.labels(model).inc()

    def draft_used(self, model: str, tokens: int, kept: int) -> None:
        """Counts the tokens."""
        self._metrics.draft_tokens.labels(model, "kept").inc(kept)
        self._metrics.draft_tokens.labels(model, "changed").inc(tokens - kept)
