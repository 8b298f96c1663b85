"""One look at a running station, handed to status and metrics. It holds figures; it computes none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from inspector.figures import percentiles
from inspector.frame import State, Verdict
from inspector.health.tally import Tally
from inspector.health.timings import Timings

Value = int | float | str | bool | None
Section = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Trouble:
    """A condition that holds, with what to do."""

    name: str
    text: str
    hint: str
    stops: bool
    """Parts cannot be inspected while it holds."""
    for_s: float


@dataclass(frozen=True, slots=True)
class Report:
    """What the station looks like now. Sections are the ``statistics()`` records of the rooms, as mappings."""

    station: Section
    """name, version, pid, epoch, uptime_s, endpoint, viewers, metrics, camera"""
    state: State
    troubles: tuple[Trouble, ...]
    known_troubles: tuple[str, ...]
    """Names of every condition there can be."""
    tally: Tally
    timings: Timings
    queues: Mapping[str, Section]
    docket: Section
    camera: Section
    link: Section
    viewers: Section
    ledger: Section
    store: Section
    disk: Section
    desk: Section
    shadow: Section
    engine: Section
    """Empty until an engine is seated."""
    hashes: Section
    promise: Section
    qualification: Section
    """qualified, why, how, by, wall_ns, note"""
    stages_stale: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """What ``inspector status --json`` prints; times in the unit that the key names."""
        tally = self.tally
        return {
            "state": self.state.value,
            "conditions": [
                {"name": one.name, "text": one.text, "do": one.hint, "stops": one.stops, "for_s": round(one.for_s, 3)}
                for one in self.troubles
            ],
            "station": dict(self.station),
            "counts": {
                "triggered": self.docket.get("opened", 0),
                "answered": tally.answered,
                "acknowledged": self.link.get("acknowledged", 0),
                **{verdict.value.lower(): tally.verdicts[verdict] for verdict in Verdict},
                "reasons": dict(tally.reasons),
                "restarted": tally.restarted,
                "events": dict(tally.events),
            },
            "latency_ms": percentiles(list(self.timings.latencies_ms)).to_json(),
            "margin_ms": _lowest(list(self.timings.margins_ms)),
            "engine": dict(self.engine),
            "hashes": dict(self.hashes),
            "queues": {name: dict(queue) for name, queue in self.queues.items()},
            **{
                name: dict(section)
                for name, section in (
                    ("docket", self.docket),
                    ("camera", self.camera),
                    ("link", self.link),
                    ("viewers", self.viewers),
                    ("ledger", self.ledger),
                    ("store", self.store),
                    ("disk", self.disk),
                    ("desk", self.desk),
                    ("shadow", self.shadow),
                    ("promise", self.promise),
                    ("qualification", self.qualification),
                )
            },
            "stages_stale": list(self.stages_stale),
        }


def _lowest(margins_ms: list[float]) -> dict[str, float | None]:
    """The time that was left, over the last parts: the least, what 1 % of them fell below, the median."""
    if not margins_ms:
        return {"min": None, "p1": None, "p50": None}
    ordered = sorted(margins_ms)
    return {"min": ordered[0], "p1": ordered[len(ordered) // 100], "p50": ordered[len(ordered) // 2]}
