"""Traces of requests, sent to an OpenTelemetry collector: the call, its wait in the queue, and its forward.

A forward is of many requests: it has a span of its own, `batch`, with links to those of all its requests.
Without a collector no span is made, and the packages of the extra `tracing` are not imported.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Thread
from typing import Any

from petl_vit.errors import InvalidInput

_CLOSE_S = 2.0
_HEADERS = ("traceparent", "tracestate")


@dataclass(frozen=True, kw_only=True, eq=False)
class Traced:
    """A request that is traced.

    Attributes:
        span: OpenTelemetry's, of the call.
    """

    tracing: "Tracing"
    span: Any

    def end(self, code: int, request_id: str) -> None:
        """Notes what became of the call, by gRPC's code, and its id in the log."""
        self.span.set_attribute("rpc.grpc.status_code", code)
        self.span.set_attribute("corolla.request_id", request_id)


_active: ContextVar["Tracing | None"] = ContextVar("tracing", default=None)
_current: ContextVar[Traced | None] = ContextVar("traced", default=None)


class Tracing:
    """Makes spans, and sends them from a thread of its own.

    Args:
        endpoint: URL of a collector that takes OTLP over gRPC. The variables of OpenTelemetry, such as
            OTEL_TRACES_SAMPLER and OTEL_SERVICE_NAME, say the rest.

    Raises:
        InvalidInput: It is not a URL, or the extra `tracing` is not installed.
    """

    def __init__(self, endpoint: str) -> None:
        if not endpoint.startswith(("http://", "https://")):
            raise InvalidInput(
                f"{endpoint!r} is not the URL of a collector",
                field="otlp_endpoint",
                remedy="write for example http://localhost:4317; with https:// it is asked over TLS",
            )
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import SERVICE_NAME, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise InvalidInput(
                "traces need packages that are not installed",
                field="otlp_endpoint",
                remedy="pip install 'corolla[tracing]'",
            ) from error
        resource = Resource.create()
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "corolla"}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("corolla")

    def enter(self) -> None:
        """Makes this task trace its calls."""
        _active.set(self)

    def close(self) -> None:
        """Sends what is left, for a moment at most."""
        sending = Thread(target=self._provider.shutdown, name="traces", daemon=True)
        sending.start()
        sending.join(_CLOSE_S)

    @contextmanager
    def call(self, method: str, sent: Mapping[str, Any]) -> Iterator[Traced]:
        """The span of a call, within the trace that its metadata names."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract(sent)
        attributes = {"rpc.system": "grpc", "rpc.method": method}
        span = self._tracer.start_span(method, context=parent, kind=SpanKind.SERVER, attributes=attributes)
        traced = Traced(tracing=self, span=span)
        token = _current.set(traced)
        try:
            yield traced
        finally:
            _current.reset(token)
            span.end()

    def batch(
        self, waited: Sequence[tuple[Traced, float]], *, started: float, seconds: float, rows: int
    ) -> None:
        """The spans of a forward: one of the batch, and of each request its wait and its forward.

        Args:
            waited: The requests, and when each began to wait.
            started: When the forward began; all times are time.monotonic() seconds.
        """
        from opentelemetry.context import Context
        from opentelemetry.trace import Link, set_span_in_context

        wall = time.time() - time.monotonic()

        def span(name: str, begun: float, ended: float, context: Any, **more: Any) -> Any:
            found = self._tracer.start_span(name, context=context, start_time=_ns(wall + begun), **more)
            found.end(_ns(wall + ended))
            return found.get_span_context()

        arrived = dict(reversed(waited))  # a request may have several images: from its first on
        links = [Link(traced.span.get_span_context()) for traced in arrived]
        sizes = {"corolla.rows": rows, "corolla.requests": len(links)}
        ended = started + seconds
        batch = span("batch", started, ended, Context(), links=links, attributes=sizes)
        for traced, begun in arrived.items():
            within = set_span_in_context(traced.span, Context())
            span("queue", begun, started, within)
            span("forward", started, ended, within, links=[Link(batch)], attributes=sizes)


@contextmanager
def call(method: str, metadata: Sequence[tuple[str, Any]]) -> Iterator[Traced | None]:
    """The span of a call, where this task traces its calls."""
    active = _active.get()
    if active is None:
        yield None
        return
    with active.call(method, {name: value for name, value in metadata if name in _HEADERS}) as traced:
        yield traced


def current() -> Traced | None:
    """The traced request that this task answers."""
    return _current.get()


def trace_id() -> str | None:
    """Of the trace that this task is part of."""
    traced = _current.get()
    return None if traced is None else f"{traced.span.get_span_context().trace_id:032x}"


def batch_ran(
    waited: Sequence[tuple[Traced | None, float]], *, started: float, seconds: float, rows: int
) -> None:
    """Makes the spans of a forward, where any of its requests is traced; see `Tracing.batch`."""
    traced = [(request, begun) for request, begun in waited if request is not None and _records(request)]
    if traced:
        traced[0][0].tracing.batch(traced, started=started, seconds=seconds, rows=rows)


def _records(request: Traced) -> bool:
    return bool(request.span.is_recording())


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
