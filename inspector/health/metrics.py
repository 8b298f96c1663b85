"""The Prometheus text of a report. Names are listed in docs/operations.md; a test compares the two."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from inspector.frame import Reason, State, Verdict
from inspector.health.report import Report, Section, Value
from inspector.health.timings import Histogram

GAUGES = (
    ("queues", "waiting", "queue_length", "Items that wait", 1.0),
    ("queues", "waiting_peak", "queue_length_peak", "Most items that ever waited", 1.0),
    ("queues", "capacity", "queue_capacity", "Items that can wait", 1.0),
    ("docket", "open_peak", "parts_open_peak", "Most parts that were ever open at a time", 1.0),
    ("camera", "connected", "camera_connected", "1 while the camera is there", 1.0),
    ("link", "connected", "controller_connected", "1 while a controller is there", 1.0),
    ("link", "authenticating", "controller_authenticating", "0 where no new client can be admitted", 1.0),
    ("link", "unacknowledged", "answers_unacknowledged", "Sent answers whose acknowledgement has not come", 1.0),
    ("link", "unacknowledged_peak", "answers_unacknowledged_peak", "Most of them at a time", 1.0),
    ("ledger", "lag_ns", "ledger_lag_seconds", "Age of the oldest commit that a power cut would lose", 1e-9),
    ("ledger", "commit_p50_us", "ledger_commit_p50_seconds", "Median commit since the start", 1e-6),
    ("ledger", "commit_p99_us", "ledger_commit_p99_seconds", "99 % of the commits were not slower", 1e-6),
    ("ledger", "commit_max_us", "ledger_commit_max_seconds", "Slowest commit", 1e-6),
    ("ledger", "wal_bytes", "ledger_wal_bytes", "Size of the ledger's write-ahead log", 1.0),
    ("ledger", "durable", "ledger_durable_sequence", "Every number up to this one survives a power cut", 1.0),
    ("ledger", "committed", "ledger_committed_sequence", "Every number up to this one survives kill -9", 1.0),
    ("store", "used_bytes", "store_used_bytes", "Size of the kept images", 1.0),
    ("store", "quota_bytes", "store_quota_bytes", "What they may take", 1.0),
    ("store", "short", "store_short", "1 while the disk is too short to keep images", 1.0),
    ("store", "waiting", "store_waiting", "Images that wait to be written", 1.0),
    ("disk", "free_bytes", "disk_free_bytes", "Free space where the ledger and the images lie", 1.0),
    ("disk", "total_bytes", "disk_total_bytes", "Size of that file system", 1.0),
    ("station", "epoch", "epoch", "Number of this run of the daemon", 1.0),
    ("station", "uptime_s", "uptime_seconds", "Since the daemon started", 1.0),
    ("qualification", "qualified", "qualified", "1 while the station is qualified for what it decides with", 1.0),
    ("promise", "max_escape", "promise_max_escape", "Share of defective parts that may pass, as promised", 1.0),
    ("shadow", "on", "shadow_on", "1 where a shadow is configured", 1.0),
    ("shadow", "up", "shadow_up", "1 while the shadow's engine is proven and takes parts", 1.0),
    ("shadow", "waiting", "shadow_waiting", "Answered parts that wait for idle time", 1.0),
)
"""(section, field, metric without ``inspector_``, help, factor to the metric's unit)"""
COUNTERS = (
    ("docket", "opened", "triggers", "Parts that were triggered", 1.0),
    ("docket", "answered", "answers", "Parts that were answered", 1.0),
    ("docket", "second", "settlements_ignored", "Settlements that came after the first", 1.0),
    ("camera", "frames", "camera_frames", "Complete frames", 1.0),
    ("camera", "missed", "camera_frames_lost", "Frames lost, counted from frame ids", 1.0),
    ("camera", "incomplete", "camera_frames_incomplete", "Frames that came in part", 1.0),
    ("camera", "overruns", "camera_overruns", "Complete frames given up because the line was behind", 1.0),
    ("camera", "producer_underruns", "camera_underruns", "Frames the producer had no buffer for", 1.0),
    ("camera", "reconnects", "camera_reconnects", "Times the camera came back", 1.0),
    ("camera", "resyncs", "camera_resyncs", "Times the frame ids had to be counted anew", 1.0),
    ("queues", "displaced", "queue_displaced", "Items displaced by newer ones", 1.0),
    ("link", "sent", "answers_sent", "Answers handed to the socket for the first time", 1.0),
    ("link", "resent", "answers_resent", "Answers sent again for want of an acknowledgement", 1.0),
    ("link", "acknowledged", "answers_acknowledged", "Answers acknowledged by the controller", 1.0),
    ("link", "expired", "answers_expired", "Answers that became too late without an acknowledgement", 1.0),
    ("link", "withheld", "answers_withheld", "Answers that came to the link too late to be sent", 1.0),
    ("link", "conflicts", "answers_conflicting", "Answers refused: another content under a known number", 1.0),
    ("link", "unreachable", "sends_unreachable", "Sends that found no controller or a full queue", 1.0),
    ("link", "received", "messages_received", "Messages from controllers", 1.0),
    ("link", "refused", "messages_refused", "Messages that were malformed or not allowed", 1.0),
    ("link", "announced", "announcements", "Parts announced by the controller", 1.0),
    ("link", "connects", "controller_connects", "Times a controller came", 1.0),
    ("link", "disconnects", "controller_disconnects", "Times a controller went", 1.0),
    ("viewers", "published", "viewer_publications", "Parts published to viewers", 1.0),
    ("viewers", "failed", "viewer_publications_failed", "Parts that could not be published", 1.0),
    ("ledger", "rows", "ledger_rows", "Answers committed", 1.0),
    ("ledger", "commits", "ledger_commits", "Transactions", 1.0),
    ("ledger", "failures", "ledger_failures", "Writes that were refused", 1.0),
    ("store", "saved", "store_saved", "Parts whose images were kept", 1.0),
    ("store", "shed", "store_shed", "Parts whose images should have been kept, but were not", 1.0),
    ("desk", "answered", "questions_answered", "Scrapes and status requests answered", 1.0),
    ("desk", "given_up", "questions_given_up", "Clients that were too slow, asked too much, or went away", 1.0),
    ("desk", "failed", "questions_failed", "Scrapes and status requests that met a fault of ours", 1.0),
    ("store", "removed", "store_removed", "Parts whose images were removed by quota, age or a short disk", 1.0),
    ("shadow", "compared", "shadow_compared", "Parts that the shadow judged too", 1.0),
    ("shadow", "restarts", "shadow_restarts", "Times the shadow's process was started again", 1.0),
    ("shadow", "yields", "shadow_yields", "Times a part stopped the shadow in its work", 1.0),
    ("shadow", "cpu_us", "shadow_cpu_seconds", "Processor time of the shadow's judgements", 1e-6),
)


class StationCollector(Collector):
    """Makes the metrics anew from the report that ``look`` returns, once a scrape."""

    def __init__(self, look: Callable[[], Report]) -> None:
        self._look = look

    def describe(self) -> Iterator[Metric]:
        """Nothing: else registering would already look at the station."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        report = self._look()
        sections = _sections(report)
        for section, field, name, text, factor in GAUGES:
            label = ["queue"] if section == "queues" else []
            yield _fill(GaugeMetricFamily(f"inspector_{name}", text, labels=label), sections[section], field, factor)
        for section, field, name, text, factor in COUNTERS:
            label = ["queue"] if section == "queues" else []
            yield _fill(CounterMetricFamily(f"inspector_{name}", text, labels=label), sections[section], field, factor)
        yield from _parts(report)
        yield from _shadow(report.shadow)
        yield from _troubles(report)
        yield from _times(report)
        yield from _infos(report)


class Metrics:
    """The text that a scrape gets."""

    def __init__(self, look: Callable[[], Report]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(StationCollector(look))

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """(body, content type) in the format that the Accept header asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


def _sections(report: Report) -> dict[str, dict[str, Section]]:
    """Each section by its label; those without one under the empty label."""
    plain = ("docket", "camera", "link", "viewers", "ledger", "store", "disk", "desk", "station", "shadow")
    own = (*plain, "promise", "qualification")
    return {name: {"": getattr(report, name)} for name in own} | {"queues": dict(report.queues)}


def _fill(
    family: GaugeMetricFamily | CounterMetricFamily, sections: dict[str, Section], field: str, factor: float
) -> Metric:
    for label, section in sections.items():
        value: Value = section.get(field)
        if isinstance(value, int | float):  # None, and sections that are not there yet, give no sample
            family.add_metric([label] if label else [], float(value) * factor)
    return family


def _parts(report: Report) -> Iterator[Metric]:
    """Every verdict and reason from the first scrape on, so that a rate over a new reason is not lost."""
    tally = report.tally
    parts = CounterMetricFamily("inspector_parts", "Answered parts", labels=["verdict", "reason"])
    for verdict in (Verdict.PASS, Verdict.FAIL):
        parts.add_metric([verdict.value, ""], tally.verdicts.get(verdict, 0))
    for reason in Reason:
        count = tally.restarted if reason is Reason.RESTARTED else tally.reasons.get(reason.value, 0)
        parts.add_metric([Verdict.INVALID.value, reason.value], count)
    yield parts
    events = CounterMetricFamily("inspector_events", "Alarms and other events", labels=["kind"])
    for kind, count in sorted({"alarm": 0, **dict(tally.events)}.items()):
        events.add_metric([kind], count)
    yield events


SHADOW_LABELS: dict[str, tuple[str, ...]] = {
    "change": ("pass_to_fail", "fail_to_pass", "to_invalid", "from_invalid"),
    "why": ("busy", "unjudged", "gone", "recipe", "lost"),
}


def _shadow(shadow: Section) -> Iterator[Metric]:
    """Flips by change and skipped parts by why, from the first scrape on."""
    flips = CounterMetricFamily("inspector_shadow_flips", "Parts the shadow judged otherwise", labels=["change"])
    skipped = CounterMetricFamily("inspector_shadow_skipped", "Parts the shadow did not judge", labels=["why"])
    for family, label, prefix in ((flips, "change", ""), (skipped, "why", "skipped_")):
        for word in SHADOW_LABELS[label]:
            count = shadow.get(prefix + word)
            if isinstance(count, int):
                family.add_metric([word], count)
        yield family


def _troubles(report: Report) -> Iterator[Metric]:
    state = GaugeMetricFamily("inspector_state", "1 for the state that holds (OPC 40100-1)", labels=["state"])
    for each in State:
        state.add_metric([each.value], float(each is report.state))
    yield state
    present = {trouble.name for trouble in report.troubles}
    condition = GaugeMetricFamily("inspector_condition", "1 while the condition holds", labels=["condition"])
    for name in sorted({*report.known_troubles, *present}):
        condition.add_metric([name], float(name in present))
    yield condition


def _times(report: Report) -> Iterator[Metric]:
    timings = report.timings
    latency = HistogramMetricFamily("inspector_latency_seconds", "Frame available until its answer is sent", labels=[])
    _observed(latency, [], timings.latency)
    yield latency
    margin = HistogramMetricFamily("inspector_deadline_margin_seconds", "Time left when the answer is sent", labels=[])
    _observed(margin, [], timings.margin)
    yield margin
    stages = HistogramMetricFamily("inspector_stage_seconds", "Time of each stage of a part", labels=["stage"])
    for name, histogram in timings.stages.items():
        _observed(stages, [name], histogram)
    yield stages


def _observed(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    family.add_metric(labels, histogram.cumulated(), histogram.sum)


def _infos(report: Report) -> Iterator[Metric]:
    for name, text, section in (
        ("inspector_station", "Which daemon this is", {key: report.station.get(key) for key in ("name", "version")}),
        ("inspector_engine", "The plan that decides", report.engine),
        ("inspector_recipe", "Hashes that stand in each answer", report.hashes),
    ):
        yield InfoMetricFamily(name, text, value={key: str(value) for key, value in section.items()})
