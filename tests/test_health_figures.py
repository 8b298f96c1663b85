"""Names and sums of what is told: no field of a statistics vanishes, histograms and the tally count right."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.camera import CameraStatistics
from inspector.docket import DocketStatistics
from inspector.flow import ChannelStatistics
from inspector.frame import Answer, Hashes, Reason, Settled, Verdict
from inspector.health import Tally
from inspector.health.desk import DeskStatistics
from inspector.health.metrics import COUNTERS, GAUGES, SHADOW_LABELS
from inspector.health.tally import Recent
from inspector.health.timings import MARGINS, Histogram, Timings
from inspector.ledger.book import BookStatistics
from inspector.ledger.store import StoreStatistics
from inspector.link.events import ControllerStatistics
from inspector.link.viewers import ViewersStatistics
from inspector.shadow.counts import ShadowStatistics


def answered(*, taken_ns: int = 0, settled_ns: int = 10_000_000, due_ns: int = 50_000_000, **rest: Any) -> Settled:
    """A PASS settled 10 ms after its frame, 40 ms before its due time."""
    fields: dict[str, Any] = dict.fromkeys(("epoch", "sequence", "frame_id", "wall_ns"), 1)
    fields |= {"part_id": "p", "verdict": Verdict.PASS, "reason": None, "review": False, "rules": (), "defects": ()}
    fields |= {"score": 0.0, "hashes": Hashes(), "stages_us": (("queue", 100), ("engine", 8000))}
    return Settled(Answer(taken_ns=taken_ns, settled_ns=settled_ns, due_ns=due_ns, **(fields | rest)))


# -- names -------------------------------------------------------------------------------------------------------------


RECORDS = {
    "queues": ChannelStatistics,
    "docket": DocketStatistics,
    "camera": CameraStatistics,
    "link": ControllerStatistics,
    "viewers": ViewersStatistics,
    "ledger": BookStatistics,
    "store": StoreStatistics,
    "desk": DeskStatistics,
    "shadow": ShadowStatistics,
}


OTHERS = {
    "disk": {"free_bytes", "total_bytes"},
    "station": {"epoch", "uptime_s"},
    "promise": {"max_escape"},
    "qualification": {"qualified"},
}


LEFT_OUT = {
    ("queues", "offered"), ("queues", "taken"), ("docket", "settled"), ("docket", "late"), ("docket", "unrecorded"),
    ("link", "acks_repeated"), ("link", "acks_unknown"), ("link", "displaced"), ("link", "announcements_repeated"),
    ("link", "heartbeats"), ("viewers", "bytes_sent"), ("viewers", "authenticating"), ("ledger", "epoch"),
    ("ledger", "batch_peak"), ("store", "waiting_peak"), ("store", "last_error"),
    ("shadow", "bundle"), ("shadow", "engine"), ("shadow", "last_fault"),
    *(("shadow", change) for change in SHADOW_LABELS["change"]),
    *(("shadow", f"skipped_{why}") for why in SHADOW_LABELS["why"]),
}  # fmt: skip
"""Told by status only, as a reason of ``parts_total``, or by label."""


def test_every_field_of_every_statistics_is_exported_or_left_out_by_name() -> None:
    """A renamed or new field cannot silently vanish from the metrics."""
    exported = {(section, field) for section, field, *_ in (*GAUGES, *COUNTERS)}
    known = {(section, field.name) for section, kind in RECORDS.items() for field in dataclasses.fields(kind)}
    known |= {(section, name) for section, names in OTHERS.items() for name in names}
    assert exported <= known
    assert known - exported == LEFT_OUT


def test_metric_names_follow_prometheus() -> None:
    """Lower case, no repeated name, counters without ``_total`` in the table, base units last."""
    names = [name for _, _, name, *_ in (*GAUGES, *COUNTERS)]
    assert len(names) == len(set(names))
    for name in names:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert not name.endswith(("_total", "_ms", "_us", "_ns", "_mb"))


# -- histograms and tally ----------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.floats(-2.0, 2.0), max_size=200))
def test_a_histogram_counts_each_value_under_its_edge(values: list[float]) -> None:
    """``le`` means at most: cumulated counts equal a plain count, and +Inf counts all."""
    histogram = Histogram(MARGINS)
    for one in values:
        histogram.observe(one)
    for edge, count in histogram.cumulated():
        assert count == sum(one <= float(edge) for one in values)
    assert histogram.sum == pytest.approx(sum(values))


def test_timings_take_the_margin_at_sending() -> None:
    """Latency runs from the frame to the send, margin from the send to the due time, commit from settled to sent."""
    timings = Timings()
    timings.observe(answered(), sent_ns=12_000_000)
    timings.observe(answered(), sent_ns=51_000_000)
    assert list(timings.latencies_ms) == [12.0, 51.0]
    assert list(timings.margins_ms) == [38.0, -1.0]
    assert dict(timings.margin.cumulated())["0.0"] == 1
    assert dict(timings.stages["commit"].cumulated())["0.002"] == 1
    assert timings.stages["engine"].sum == pytest.approx(0.016)


def test_the_tally_sorts_by_verdict_and_reason() -> None:
    """Escapes and overkill are counted only where the truth is known."""
    tally = Tally()
    tally.add(answered(), 1)
    tally.add(dataclasses.replace(answered(), truth=True), 1)
    tally.add(dataclasses.replace(answered(verdict=Verdict.FAIL), truth=False), 1)
    tally.add(answered(verdict=Verdict.INVALID, reason=Reason.LATE), 1)
    assert (tally.answered, tally.escapes, tally.overkill) == (4, 1, 1)
    assert dict(tally.reasons) == {"LATE": 1}


def test_the_tally_keeps_the_last_latencies_in_memory_of_one_size() -> None:
    """However long the daemon runs, only the newest latencies count, and nothing grows for them."""
    recent = Recent(3)
    with pytest.raises(IndexError):
        assert recent.last
    assert not recent.values()
    for value in (1.0, 2.0, 3.0, 4.0):
        recent.append(value)
    assert recent.last == 4.0
    assert sorted(recent.values()) == [2.0, 3.0, 4.0]
