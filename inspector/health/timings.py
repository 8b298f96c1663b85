"""How long parts took, for histograms (all parts since the start) and percentiles (the last ones)."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

from inspector.frame import Settled

SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0)
"""Upper edges of the buckets for durations."""
MARGINS = (-0.02, -0.005, -0.002, 0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Upper edges for the time that was left; at or below 0 the answer left at its due time or after."""
RECENT = 2000


class Histogram:
    """Counts by upper edge. One thread observes; readers may see a figure that is one part old."""

    def __init__(self, edges: tuple[float, ...]) -> None:
        self.edges = edges
        self._counts = [0] * (len(edges) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self.edges, value)] += 1
        self.sum += value

    def cumulated(self) -> list[tuple[str, int]]:
        """(upper edge, observations up to it), ending with +Inf."""
        total, out = 0, []
        for edge, count in zip((*map(str, self.edges), "+Inf"), list(self._counts), strict=True):
            total += count
            out.append((edge, total))
        return out


class Timings:
    """Fed by the thread that tells, never by the one that answers."""

    def __init__(self) -> None:
        self.latency = Histogram(SECONDS)
        """Frame available -> answer handed to the socket."""
        self.margin = Histogram(MARGINS)
        """Answer handed to the socket -> due time."""
        self.stages: dict[str, Histogram] = {}
        """By stage, in the order in which they ran; ``commit`` is settled -> sent, the ledger's part of the way."""
        self.latencies_ms: deque[float] = deque(maxlen=RECENT)
        self.margins_ms: deque[float] = deque(maxlen=RECENT)

    def observe(self, settled: Settled, sent_ns: int) -> None:
        """Count one answered part."""
        answer = settled.answer
        latency_s, margin_s = (sent_ns - answer.taken_ns) / 1e9, (answer.due_ns - sent_ns) / 1e9
        self.latency.observe(latency_s)
        self.margin.observe(margin_s)
        self.latencies_ms.append(latency_s * 1e3)
        self.margins_ms.append(margin_s * 1e3)
        for name, spent_us in (*answer.stages_us, ("commit", (sent_ns - answer.settled_ns) // 1000)):
            stage = self.stages.get(name)
            if stage is None:
                # a new dict, because readers walk over the old one
                self.stages = {**self.stages, name: (stage := Histogram(SECONDS))}
            stage.observe(spent_us / 1e6)
