"""The tally of answers."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field

from inspector.figures import percentiles
from inspector.frame import Settled, Verdict

RECENT = 100_000


class Recent:
    """The last ``size`` of a series of numbers, in memory that is taken at once: a daemon must not grow for days."""

    def __init__(self, size: int) -> None:
        self._values = array("d", bytes(8 * size))
        self._count = 0

    def append(self, value: float) -> None:
        self._values[self._count % len(self._values)] = value
        self._count += 1

    @property
    def last(self) -> float:
        """The newest number. Raises IndexError before the first."""
        if not self._count:
            raise IndexError("nothing was appended yet")
        return self._values[(self._count - 1) % len(self._values)]

    def values(self) -> array[float]:
        """A copy, in no particular order."""
        return self._values[: self._count]


@dataclass(slots=True)
class Tally:
    """Counts of answers so far. One thread adds (the answering one); others read figures that may be one part old."""

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    restarted: int = 0
    """Parts of earlier runs that were reported INVALID RESTARTED; they are not among the answers of this run."""
    events: Counter[str] = field(default_factory=Counter)
    """What happened besides answers, by kind: alarms, controllers coming and going, refused messages."""
    triggered: int = 0
    acknowledged: int = 0
    escapes: int = 0
    overkill: int = 0
    defective: int = 0
    good: int = 0
    latencies_ms: Recent = field(default_factory=lambda: Recent(RECENT))
    """Frame available -> answer handed to the socket, of the last parts."""

    def add(self, settled: Settled, sent_ns: int) -> None:
        answer = settled.answer
        self.verdicts[answer.verdict] += 1
        if answer.reason is not None:
            self.reasons[answer.reason.value] += 1
        self.latencies_ms.append((sent_ns - answer.taken_ns) / 1e6)
        if settled.truth is None:
            return
        self.defective += settled.truth
        self.good += not settled.truth
        self.escapes += settled.truth and answer.verdict is Verdict.PASS
        self.overkill += not settled.truth and answer.verdict is Verdict.FAIL

    @property
    def answered(self) -> int:
        return self.verdicts.total()

    def figures(self) -> dict[str, object]:
        """The keys that ``run`` and ``demo`` print as JSON."""
        return {
            "triggered": self.triggered,
            "answered": self.answered,
            "acknowledged": self.acknowledged,
            "pass": self.verdicts[Verdict.PASS],
            "fail": self.verdicts[Verdict.FAIL],
            "invalid": self.verdicts[Verdict.INVALID],
            "reasons": dict(sorted(self.reasons.items())),
            "defective": self.defective,
            "good": self.good,
            "escapes": self.escapes,
            "overkill": self.overkill,
            "latency_ms": percentiles(self.latencies_ms.values()).to_json(),
        }
