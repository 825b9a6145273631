"""What a service counts, in Prometheus's format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from dcam_fast.explained_answer import ExplainedAnswer

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)
SHARES = tuple(tenth / 10 for tenth in range(1, 11))


class Metrics:
    """The counters of one service, in a separate registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "dcam_requests", "Requests that were answered.", ["route", "status"], registry=self.registry
        )
        self.in_flight = Gauge("dcam_requests_in_flight", "Requests that are being answered.", registry=self.registry)
        self.queue_length = Gauge(
            "dcam_queue_length", "Requests that wait for the worker or run.", registry=self.registry
        )
        self.runs = Gauge("dcam_runs", "Explanations that are kept for their links.", registry=self.registry)
        self.queue_seconds = self._histogram("dcam_queue_seconds", "Seconds that a request waited for the worker.")
        self.generate_seconds = self._histogram("dcam_generate_seconds", "Seconds that an answer took.")
        self.explain_seconds = self._histogram("dcam_explain_seconds", "Seconds that the maps of an answer took.")
        self.groundedness = self._histogram("dcam_groundedness", "Groundedness of explained words.", SHARES)
        self.maps = Counter("dcam_maps", "Maps that were made.", ["method"], registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self.registry)

    def observe(self, explanation: ExplainedAnswer, method: str) -> None:
        """Counts an explanation."""
        seconds = explanation.provenance["seconds"]
        assert isinstance(seconds, dict)
        if explanation.provenance["answer"] == "generated":
            self.generate_seconds.observe(seconds["generate"])
        self.explain_seconds.observe(seconds["explain"])
        self.maps.labels(method).inc(len(explanation))
        for target in explanation.targets:
            if target.groundedness is not None:
                self.groundedness.observe(target.groundedness)

    def text(self) -> bytes:
        """All counters."""
        return generate_latest(self.registry)
