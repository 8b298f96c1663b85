"""Brings announced parts and frames together: by number, proven by time.

A controller's counter and a camera's frame ids rise together only while neither misses a trigger. So a frame is a
part's when both say so:

- time: it came between ``earliest_ns`` and ``latest_ns`` after the announcement of this part and of no other, whatever
  became of the other; it is looked at when no further announcement can be as near. While every frame comes in that
  span after its own part, a frame can be no other part's;
- number: its id lies as far from the part's counter as that of the frame before it. So a frame that came late, when
  the next part was due, is noticed.

The distance is learned when three frames in a row, each given to one part by time, agree on it: at first, and anew
when a trigger was missed uncounted, or the camera or the controller began to count anew. Until then each part that a
frame may belong to is INVALID. A frame that lay unread for nobody knows how long teaches nothing. A frame that nobody
announced is a part all the same, INVALID too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from inspector.docket import Docket
from inspector.frame import Entry, Frame, Missed, Reason, invalid
from inspector.intake.placed import Placed, told, when_ns

_AGREEING = 3
"""Frames in a row that must agree on a distance of the numbers before it is believed."""
_REMEMBERED_NS = 2_000_000_000
"""A frame that comes so long after its part was answered belongs to it all the same, and is no part of its own."""


@dataclass(slots=True)
class _Expected:
    entry: Entry
    counter: int
    at_ns: int
    waits: bool = True
    """False once it has its frame, or was settled or answered without one."""


class Meeting:
    """One thread: announcements and frames in the order in which they came, then ``pair``."""

    def __init__(
        self, docket: Docket, wall_ns: Callable[[], int], *, earliest_ns: int = -5_000_000, latest_ns: int = 30_000_000
    ) -> None:
        """A frame comes from ``earliest_ns`` (negative: before it) to ``latest_ns`` after its announcement."""
        if earliest_ns >= latest_ns:
            raise ValueError(f"earliest {earliest_ns} ns must lie before latest {latest_ns} ns")
        self._docket, self._wall_ns = docket, wall_ns
        self._earliest_ns, self._latest_ns = earliest_ns, latest_ns
        self._expected: deque[_Expected] = deque()
        self._parked: deque[Frame | Missed] = deque()
        self._distance: int | None = None
        self._proposed: int | None = None
        self._agreeing = 0
        self.unmet = 0
        """Frames without a part and announced parts without a frame, since the last pair."""

    def announce(self, counter: int, part_id: str, received_ns: int) -> Entry:
        """The controller's announcement is the trigger: it opens the docket and starts the due time."""
        entry = self._docket.open(
            part_id=part_id, frame_id=-1, taken_ns=received_ns, wall_ns=self._wall_ns(), frame_seen=False
        )
        self._expected.append(_Expected(entry, counter, received_ns))
        return entry

    def arrive(self, arrived: Frame | Missed) -> None:
        """A frame or known loss; ``pair`` tells whose it is."""
        self._parked.append(arrived)

    @property
    def parked(self) -> int:
        """Frames and losses that wait for ``pair``."""
        return len(self._parked)

    def pair(self, heard_ns: int, now_ns: int) -> list[Placed]:
        """What frames came to, now that every announcement before ``heard_ns`` has been heard."""
        placed: list[Placed] = []
        while self._parked and self._ripe_ns(self._parked[0]) <= heard_ns:
            arrived = self._parked.popleft()
            placed += self._missed(arrived) if isinstance(arrived, Missed) else self._met(arrived)
        for part in self._expected:
            if part.waits and part.entry.due_ns <= now_ns:
                part.waits = False  # its due time answers it as MISSED
                self.unmet += 1
        while self._expected and self._forgotten_ns(self._expected[0]) <= now_ns:
            self._expected.popleft()
        return placed

    def next_ns(self) -> int | None:
        """When ``pair`` has something to do; None while no frame waits."""
        return self._ripe_ns(self._parked[0]) if self._parked else None

    def _ripe_ns(self, arrived: Frame | Missed) -> int:
        """From then on no announcement can come that it would be in time for."""
        return when_ns(arrived) + max(0, -self._earliest_ns)

    def _forgotten_ns(self, part: _Expected) -> int:
        return max(part.entry.due_ns, part.at_ns + self._latest_ns) + _REMEMBERED_NS

    def _met(self, frame: Frame) -> list[Placed]:
        fits = self._in_time(frame)
        if len(fits) == 1:
            distance = frame.frame_id - fits[0].counter
            if distance != self._distance and not (fits[0].waits and frame.timely):
                self._proposed = None
            elif self._believed(distance) and fits[0].waits:
                return self._pair(frame, fits[0])
        else:
            self._proposed = None
        self.unmet += 1
        if fits:
            return self._doubt(frame, fits)
        late = self._by_number(frame)
        if late is None:
            return [self._stranger(frame)]
        after_ms = (frame.taken_ns - late.at_ns) / 1e6
        span = f"{self._earliest_ns / 1e6:g} to {self._latest_ns / 1e6:g} ms"
        return self._settle([late], f"frame {frame.frame_id} came {after_ms:.1f} ms after it; allowed: {span}")

    def _believed(self, distance: int) -> bool:
        """Whether this is how far ids and counters lie apart; learns."""
        if distance != self._distance:
            self._agreeing = self._agreeing + 1 if distance == self._proposed else 1
            self._proposed = distance
            if self._agreeing < _AGREEING:
                return False
            self._distance = distance
        self._proposed = None
        return True

    def _pair(self, frame: Frame, part: _Expected) -> list[Placed]:
        part.waits, self.unmet = False, 0
        entry = self._docket.see(part.entry.sequence, frame.taken_ns, frame.frame_id)
        return [] if entry is None else [Placed(entry, frame)]

    def _doubt(self, frame: Frame, fits: list[_Expected]) -> list[Placed]:
        if len(fits) > 1:
            apart_ms = (fits[-1].at_ns - fits[0].at_ns) / 1e6
            span_ms = (self._latest_ns - self._earliest_ns) / 1e6
            why = f"frame {frame.frame_id} may be that of parts announced {apart_ms:.1f} ms apart; they are told apart"
            return self._settle(fits, f"{why} from {span_ms:g} ms on")
        if self._distance is None:
            why = f"frame {frame.frame_id} came in its time; {_AGREEING} in a row must agree before one is believed"
        else:
            expected = fits[0].counter + self._distance
            why = f"frame {frame.frame_id} came in its time, but frame {expected} is its own by the numbers"
        return self._settle(fits, why)

    def _settle(self, parts: list[_Expected], why: str) -> list[Placed]:
        waiting = [part for part in parts if part.waits]
        for part in waiting:
            part.waits = False
        return [Placed(part.entry, invalid(Reason.MISSED, why)) for part in waiting]

    def _missed(self, missed: Missed) -> list[Placed]:
        """A loss is its part's by number; one that time gives to one part alone is believed, too: INVALID is safe."""
        part = self._by_number(missed)
        if part is None and missed.reason is not Reason.MISSED:  # a gap is noticed too late to know its time
            fits = self._in_time(missed)
            part = fits[0] if len(fits) == 1 else None
        self.unmet += 1
        if part is None or not part.waits:
            return []
        part.waits = False
        entry = self._docket.see(part.entry.sequence, part.at_ns, missed.frame_id)
        return [] if entry is None else [Placed(entry, invalid(missed.reason, told(missed)))]

    def _stranger(self, frame: Frame) -> Placed:
        entry = self._docket.open(
            part_id=frame.part_id,
            frame_id=frame.frame_id,
            taken_ns=frame.taken_ns,
            wall_ns=self._wall_ns(),
            truth=frame.truth,
        )
        why = f"frame {frame.frame_id} came without an announcement"
        return Placed(entry, invalid(Reason.MISSED, why), stranger=True)

    def _in_time(self, arrived: Frame | Missed) -> list[_Expected]:
        at_ns = when_ns(arrived)
        return [one for one in self._expected if self._earliest_ns <= at_ns - one.at_ns <= self._latest_ns]

    def _by_number(self, arrived: Frame | Missed) -> _Expected | None:
        if self._distance is None:
            return None
        counter = arrived.frame_id - self._distance
        return next((one for one in reversed(self._expected) if one.counter == counter), None)
