"""What inference tells the metrics."""

from __future__ import annotations

from server.inference.observer import MetricsObserver
from server.metrics import Metrics


def test_requests_are_counted_and_timed_and_work_is_shown() -> None:
    metrics = Metrics()
    observer = MetricsObserver(metrics)
    for outcome in ("ok", "ok", "late"):
        observer.request_done("asr", "final", 0.25, outcome)
    for in_flight in (1, 4):
        observer.work_changed("asr", in_flight, 2, 3)
    observer.replica_changed("one", "asr", False, "gone")
    observer.healed("one", "asr", 2.0, True)

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"model": "asr", **labels})

    assert value("starling_inference_requests_total", kind="final", outcome="ok") == 2
    assert value("starling_inference_requests_total", kind="final", outcome="late") == 1
    assert value("starling_chunk_to_response_seconds_count", kind="final") == 2
    assert value("starling_chunk_to_response_seconds_sum", kind="final") == 0.5
    assert value("starling_inference_in_flight") == 4
    assert value("starling_inference_waiting", kind="final") == 2
    assert value("starling_inference_waiting", kind="partial") == 3
