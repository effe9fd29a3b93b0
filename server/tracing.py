"""OpenTelemetry traces, from the first frame of a segment to its final and across the call to Triton.

Off unless `STARLING_OTLP_ENDPOINT` is set: nothing of OpenTelemetry is imported then, and every hook costs one look at
an empty table. A trace is one segment: windows, marks and stores are spans within it, partials are events. Where two
segments of a session are at work at once, spans are found within the newer one. Triton takes the trace on from the
`traceparent` in the call's metadata if it is started with `--trace-config mode=opentelemetry`. No text and no token is
in a trace.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from session_store.base import Final

if TYPE_CHECKING:
    from opentelemetry.context import Context as SpanContext
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

SERVICE = "starling"
Metadata = tuple[tuple[str, str], ...]

_provider: TracerProvider | None = None
_segments: WeakKeyDictionary[object, Segments] = WeakKeyDictionary()


class Segments:
    """The segments of one session that are at work, each a span."""

    def __init__(self, tracer: Tracer, session_id: str) -> None:
        self._tracer = tracer
        self._session_id = session_id
        self._open: list[tuple[float, Span]] = []
        """With the second of audio that each began at."""
        self._begins_at = 0.0
        self._is_new = True
        self.span: Span | None = None
        """What belongs to the session belongs to this one: the newest."""

    def started(self, at: float) -> None:
        """Speech began at this second of audio."""
        self._begins_at = at
        self._is_new = True

    def heard(self, age_s: float) -> None:
        """Speech that arrived `age_s` seconds ago is at work."""
        if self._open and not self._is_new:
            return
        self._is_new = False
        # In an empty context: a trace of its own, whatever span is current here.
        self.span = self._tracer.start_span(
            "segment",
            _no_parent(),
            attributes={"starling.session": self._session_id},
            start_time=time.time_ns() - int(max(0.0, age_s) * 1e9),
        )
        self._open.append((self._begins_at, self.span))

    def partial(self) -> None:
        """A partial goes out."""
        if self._open:
            self._open[-1][1].add_event("partial")

    def final(self, final: Final) -> None:
        """A final goes out: its segment is over, and so are those before it that came to nothing."""
        if not self._open:
            self.heard(0.0)
        spans = [span for at, span in self._open if at < final.end]
        self._open = [(at, span) for at, span in self._open if at >= final.end]
        # Speech behind it may have begun long ago.
        self._begins_at = max(self._begins_at, final.end)
        for span in spans:
            if span is spans[-1]:
                span.set_attribute("starling.seq", final.seq)
                span.set_attribute("starling.audio_s", round(final.end - final.start, 3))
            span.end()

    def end(self) -> None:
        """Nothing more comes of the session here."""
        for _, span in self._open:
            span.end()
        self._open.clear()


def configure(endpoint: str) -> None:
    """Sends traces to the OpenTelemetry collector at `endpoint`, `http://host:4317`; does nothing where it is empty."""
    if not endpoint:
        return
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": SERVICE}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=5)))
    use(provider)


def use(provider: TracerProvider) -> None:
    """Traces go to this provider from now on."""
    global _provider  # noqa: PLW0603 - one process has one
    _provider = provider


def shutdown() -> None:
    """Sends what is left, within seconds, and turns tracing off. Blocks."""
    global _provider
    provider, _provider = _provider, None
    _segments.clear()
    if provider is not None:
        provider.shutdown()


def follow(source: object, session_id: str) -> Segments | None:
    """Begins to trace a session's segments; None where tracing is off."""
    if _provider is None:
        return None
    segments = _segments[source] = Segments(_provider.get_tracer(SERVICE), session_id)
    return segments


def context_of(source: object) -> Context | None:
    """The context in which work for a session is done, so that its spans are found within its segment."""
    span = _span_of(source)
    if span is None:
        return None
    from opentelemetry import context, trace

    own = copy_context()
    own.run(context.attach, trace.set_span_in_context(span))
    return own


@contextmanager
def step(source: object, name: str) -> Iterator[None]:
    """A span for a part of a session's work."""
    span = _span_of(source)
    if span is None or _provider is None:
        yield
        return
    from opentelemetry import trace

    with _provider.get_tracer(SERVICE).start_as_current_span(name, trace.set_span_in_context(span)):
        yield


@contextmanager
def call(model: str, address: str) -> Iterator[Metadata | None]:
    """A span for a call to Triton, with the metadata that carries it over; calls for no session have none."""
    if _provider is None:
        yield None
        return
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if not trace.get_current_span().get_span_context().is_valid:
        yield None
        return
    attributes = {"rpc.system": "grpc", "rpc.method": "ModelInfer", "server.address": address, "starling.model": model}
    tracer = _provider.get_tracer(SERVICE)
    with tracer.start_as_current_span(model, kind=trace.SpanKind.CLIENT, attributes=attributes):
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
        yield tuple(carrier.items())


def _span_of(source: object) -> Span | None:
    segments = _segments.get(source) if _segments else None
    return None if segments is None else segments.span


def _no_parent() -> SpanContext:
    from opentelemetry.context import Context as SpanContext

    return SpanContext()
