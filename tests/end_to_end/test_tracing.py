"""Traces of a real session, as a collector gets them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from tests.end_to_end.gateway import MakeGateway
from tests.end_to_end.speaker import clip, recite

pytestmark = pytest.mark.triton


class Collector(TraceServiceServicer):
    """Keeps the spans that it is sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self._lock = threading.Lock()

    def Export(self, request: Any, context: object) -> Any:
        del context
        with self._lock:
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    self.spans += scope.spans
        return pb.ExportTraceServiceResponse()


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    server = grpc.server(ThreadPoolExecutor(2))
    made = Collector()
    add_TraceServiceServicer_to_server(made, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield made, f"http://127.0.0.1:{port}"
    server.stop(None).wait()


async def test_a_trace_leads_from_the_first_frame_to_the_final(
    make_gateway: MakeGateway, collector: tuple[Collector, str]
) -> None:
    kept, endpoint = collector
    gateway = make_gateway(otlp_endpoint=endpoint)
    heard = await recite(gateway.url, clip("jfk").pcm() + bytes(32000), frame=3200)
    assert gateway.terminate() == 0

    segments = [span for span in kept.spans if span.name == "segment"]
    assert len(segments) == len(heard.finals)
    assert all(not span.parent_span_id for span in segments)
    roots = {segment.trace_id: segment for segment in segments}
    assert len(roots) == len(segments)
    for segment in segments:
        assert {item.key for item in segment.attributes} == {"starling.session", "starling.seq", "starling.audio_s"}
    calls = [span for span in kept.spans if span.name == "asr"]
    assert len(calls) >= len(segments)
    for call in calls:
        assert call.parent_span_id == roots[call.trace_id].span_id
        assert call.start_time_unix_nano >= roots[call.trace_id].start_time_unix_nano
    stores = [span for span in kept.spans if span.name == "store"]
    assert len(stores) >= len(segments)
    assert all(store.trace_id in roots for store in stores)
    said = b" ".join(span.SerializeToString() for span in kept.spans).decode(errors="replace").lower()
    assert "country" in heard.text.lower()
    assert "country" not in said
