"""What is counted, for Prometheus and for the status page."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from coordinator.problems import Problems


class Metrics:
    """The run's own registry, so that two coordinators in one process (tests) do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.problems = Problems()
        self.refusals = Counter(
            "dah_refusals", "Refused calls by call and reason.", ["call", "reason"], registry=self.registry
        )
        self.left_out = Counter(
            "dah_left_out", "Contributions that did not count, by reason.", ["reason"], registry=self.registry
        )
        self.images = Counter("dah_images", "Images accepted.", registry=self.registry)
        self.contributions = Counter("dah_contributions", "Contributions accepted.", registry=self.registry)
        self.uplink = Counter("dah_uplink_bytes", "Bytes of accepted contributions.", registry=self.registry)
        self.sent = Counter(
            "dah_sent_bytes",
            "Bytes of answers to who wants a file, headers included, by kind.",
            ["kind"],
            registry=self.registry,
        )
        self.redirects = Counter("dah_redirects", "Downloads led on to the bucket.", registry=self.registry)
        self.bucket_files = Gauge("dah_bucket_files", "Files that are in the bucket.", registry=self.registry)
        self.bucket_written = Counter("dah_bucket_written_bytes", "Bytes written there.", registry=self.registry)
        self._problems = Gauge("dah_problems", "Problems that are present, by kind.", ["kind"], registry=self.registry)
        self.version = Gauge("dah_version", "Newest published version.", registry=self.registry)
        self.waiting = Gauge("dah_waiting_workers", "Workers that wait for work in a call.", registry=self.registry)
        self.uploads = Gauge("dah_uploads", "Contributions that are coming in.", registry=self.registry)
        self.judgements = Counter(
            "dah_judgements", "Checkpoints that were judged, or could not be.", ["outcome"], registry=self.registry
        )
        self.stalls = Counter(
            "dah_stalled_seconds", "Time in which the coordinator left calls unread.", registry=self.registry
        )
        self.closing = Histogram(
            "dah_round_closing_seconds", "From closing a round to its published version.", registry=self.registry
        )

    def exposition(self) -> bytes:
        """Everything as Prometheus reads it."""
        for kind, count in self.problems.counts().items():
            self._problems.labels(kind=kind).set(count)
        return generate_latest(self.registry)

    def refusal_counts(self) -> dict[str, int]:
        """Refusals by reason since the start of this process."""
        counts: dict[str, int] = {}
        for family in self.refusals.collect():
            for sample in family.samples:
                if sample.name.endswith("_total"):
                    reason = sample.labels["reason"]
                    counts[reason] = counts.get(reason, 0) + int(sample.value)
        return counts
