"""What Prometheus is told. Names follow its conventions: base units, `_total` for counters."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from server.tally import Spread, Tally

PARTIAL_BUCKETS = (0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.8, 1, 1.5, 2, 4)
"""Seconds round the budget of a partial, 0.5."""

FINAL_BUCKETS = (0.25, 0.5, 0.6, 0.7, 0.8, 1, 1.25, 1.5, 2, 3, 5, 10, 30)
"""Seconds round the budget of a final, 1 (the endpoint's silence alone is 0.5)."""

DECODE_BUCKETS = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10)
SHORT_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2)


class Metrics:
    """All metrics of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.sessions = Gauge("starling_sessions", "Sessions held, connected or resumable.", registry=r)
        self.connections = Gauge("starling_connections", "Open WebSockets.", ["protocol"], registry=r)
        self.opened = Counter("starling_sessions_opened_total", "Sessions begun.", ["protocol"], registry=r)
        self.resumes = Counter("starling_resumes_total", "Resumes by what became of them.", ["outcome"], registry=r)
        self.closes = Counter("starling_closes_total", "Connections closed, by code.", ["code"], registry=r)
        self.refusals = Counter(
            "starling_refusals_total", "Requests refused before the upgrade.", ["status"], registry=r
        )
        self.audio = Tally("starling_audio_seconds_total", "Audio received.", registry=r)
        self.frames = Tally("starling_audio_frames_total", "Binary messages received.", registry=r)
        self.messages = Counter("starling_messages_sent_total", "Messages sent, by type.", ["type"], registry=r)
        self.first_partial = Histogram(
            "starling_first_partial_seconds",
            "First voiced sample's arrival to the segment's first partial.",
            buckets=(*PARTIAL_BUCKETS,),
            registry=r,
        )
        self.partial_lag = Histogram(
            "starling_partial_lag_seconds",
            "Arrival of a partial's oldest new sample to its sending.",
            buckets=PARTIAL_BUCKETS,
            registry=r,
        )
        self.final_lag = Histogram(
            "starling_speech_end_to_final_seconds",
            "Arrival of the last speech sample to the final's sending.",
            buckets=FINAL_BUCKETS,
            registry=r,
        )
        self.chunk = Histogram(
            "starling_chunk_to_response_seconds",
            "Window sent to Triton to hypothesis received.",
            ["model", "kind"],
            buckets=DECODE_BUCKETS,
            registry=r,
        )
        self.requests = Counter(
            "starling_inference_requests_total", "Requests to Triton.", ["model", "kind", "outcome"], registry=r
        )
        self.in_flight = Gauge("starling_inference_in_flight", "Windows at Triton.", ["model"], registry=r)
        self.waiting = Gauge("starling_inference_waiting", "Work that waits for room.", ["model", "kind"], registry=r)
        self.retries = Counter("starling_inference_retries_total", "Finals sent again.", ["model"], registry=r)
        self.draft_tokens = Counter(
            "starling_draft_tokens_total",
            "Tokens of drafts; kept: the answer begins with them.",
            ["model", "outcome"],
            registry=r,
        )
        self.healthy = Gauge("starling_inference_healthy", "1 while inferences go through.", registry=r)
        self.model_up = Gauge("starling_triton_model_up", "1 while a model gets work.", ["triton", "model"], registry=r)
        self.heals = Counter(
            "starling_triton_heals_total", "Models unloaded and loaded.", ["model", "outcome"], registry=r
        )
        self.store_seconds = Histogram(
            "starling_store_seconds", "Store calls.", ["operation"], buckets=SHORT_BUCKETS, registry=r
        )
        self.store_errors = Counter("starling_store_errors_total", "Store calls failed.", ["operation"], registry=r)
        self.vad = Spread(
            "starling_voice_activity_seconds", "Voice activity asked to answered.", buckets=SHORT_BUCKETS, registry=r
        )
        self.loop_delay = Histogram(
            "starling_event_loop_delay_seconds", "How late the event loop runs.", buckets=SHORT_BUCKETS, registry=r
        )
        self.tasks = Gauge("starling_tasks", "asyncio tasks; read on the event loop.", registry=r)
        self.tasks.set_function(lambda: len(asyncio.all_tasks()))
        ProcessCollector(registry=r)  # memory, descriptors and processor time, as every exporter names them
        self.faults = Counter("starling_faults_total", "Unexpected exceptions, by place.", ["where"], registry=r)
