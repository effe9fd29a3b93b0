from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from server import tracing
from server.inference.client import TritonClient
from server.inference.errors import InferenceError
from server.inference.wire import asr_request
from server.session.commands import Decode
from session_store.base import Final
from tests.server.inference.fake_triton import AbortError, Asked, FakeTriton

REQUEST = asr_request("asr", Decode(0, np.zeros(1600, np.int16), "en"))


class Listening(FakeTriton):
    """Notes the metadata of every inference."""

    def __init__(self) -> None:
        super().__init__("asr")
        self.metadata: list[dict[str, str]] = []

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        self.metadata.append(dict(context.invocation_metadata()))
        return await super().ModelInfer(request, context)


class Source:
    """A session, as far as tracing cares."""


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider)
    yield exporter
    tracing.shutdown()


async def infer(triton: FakeTriton, source: object) -> None:
    client = TritonClient(triton.address)
    try:
        task = asyncio.get_running_loop().create_task(client.infer(REQUEST, 10), context=tracing.context_of(source))
        await task
    finally:
        await client.close()


async def test_the_call_carries_the_trace_of_its_segment(spans: InMemorySpanExporter) -> None:
    source = Source()
    segments = tracing.follow(source, "s1")
    assert segments is not None
    segments.heard(2.0)
    async with Listening() as triton:
        await infer(triton, source)
    segments.partial()
    segments.final(Final(0, "hello", 0.0, 1.5, "en", 0.9, punctuated=True))
    call, segment = spans.get_finished_spans()
    assert (call.name, segment.name) == ("asr", "segment")
    assert call.parent == segment.context
    assert segment.parent is None
    assert segment.start_time is not None
    assert call.start_time is not None
    assert call.start_time - segment.start_time >= 1_900_000_000
    [sent] = triton.metadata
    assert call.context is not None
    assert sent["traceparent"].startswith(f"00-{call.context.trace_id:032x}-{call.context.span_id:016x}-")
    assert segment.attributes == {"starling.session": "s1", "starling.seq": 0, "starling.audio_s": 1.5}
    assert [event.name for event in segment.events] == ["partial"]


async def test_a_failed_call_is_marked(spans: InMemorySpanExporter) -> None:
    source = Source()
    segments = tracing.follow(source, "s1")
    assert segments is not None
    segments.heard(0.0)

    def refuse(asked: Asked) -> None:
        import grpc

        raise AbortError(grpc.StatusCode.INVALID_ARGUMENT, "no")

    async with Listening() as triton:
        triton.models["asr"].trouble = refuse
        with pytest.raises(InferenceError):
            await infer(triton, source)
    [call] = spans.get_finished_spans()
    assert not call.status.is_ok


async def test_each_segment_has_a_trace_of_its_own(spans: InMemorySpanExporter) -> None:
    source = Source()
    segments = tracing.follow(source, "s1")
    assert segments is not None
    for _ in range(2):
        segments.heard(0.0)
        segments.heard(0.0)
        with tracing.step(source, "store"):
            pass
        segments.end()
    found = spans.get_finished_spans()
    assert [span.name for span in found] == ["store", "segment", "store", "segment"]
    assert len({span.context.trace_id for span in found if span.context is not None}) == 2


async def test_off_nothing_is_added_to_a_call() -> None:
    source = Source()
    assert tracing.follow(source, "s1") is None
    assert tracing.context_of(source) is None
    async with Listening() as triton:
        await infer(triton, source)
    assert "traceparent" not in triton.metadata[0]


def test_off_nothing_of_opentelemetry_is_imported() -> None:
    program = "import sys, server.app; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
