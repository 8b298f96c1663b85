"""Which views belong to one part.

Where the line says how close the views of a part follow one another (``gap_ns``), a longer pause before a frame begins
a part, and nothing else does: neither ids that start at 0, nor a start or a reconnection in the middle of a part, can
put views of two parts together. A frame that lay unread may hide such a pause: unless the camera's clock tells when it
was taken, its part is INVALID. Losses that the ids show are given to the part they must belong to, so that the count
of parts stays right. Without a gap (recorded and rendered frames, which are never lost) the ids count the views.
"""

from __future__ import annotations

from collections.abc import Callable

from inspector.docket import Docket
from inspector.frame import Decision, Entry, Frame, Missed, Reason, invalid
from inspector.intake.placed import Placed, told, when_ns


class Grouping:
    """Opens a part in the docket for each group of ``views`` frames. One thread."""

    def __init__(self, docket: Docket, wall_ns: Callable[[], int], *, views: int = 1, gap_ns: int = 0) -> None:
        self._docket, self._wall_ns = docket, wall_ns
        self._views, self._gap_ns = views, gap_ns
        self._base: int | None = None
        self._part = -1
        self._entry: Entry | None = None
        self._count = 0
        """Views of the present part that came or were lost, up to the last one."""
        self._doubt = ""
        """Why the present part cannot be inspected any more."""
        self._last_ns = 0
        self._lost: list[Missed] = []
        """Seen as gaps in the ids; whose they are, the next frame tells."""

    @property
    def whole(self) -> bool:
        """True where no part waits for further views."""
        return self._views == 1 or self._entry is None or self._count >= self._views

    def place(self, arrived: Frame | Missed | None) -> list[Placed]:
        """What has become of this arrival, or of a while in which nothing came (None)."""
        if self._views == 1:
            return [] if arrived is None else [self._alone(arrived)]
        if not self._gap_ns:
            return [] if arrived is None else self._by_number(arrived)
        if isinstance(arrived, Missed) and arrived.reason is Reason.MISSED:
            self._lost.append(arrived)
            return []
        if arrived is not None:
            return self._by_pause(arrived)
        lost, self._lost = self._lost, []
        return [placed for one in lost for placed in self._by_pause(one)]

    def _alone(self, arrived: Frame | Missed) -> Placed:
        entry = self._open(arrived)
        if isinstance(arrived, Frame):
            return Placed(entry, arrived)
        return Placed(entry, invalid(arrived.reason, told(arrived)))

    # -- recorded and rendered frames -----------------------------------------------------------------------------

    def _by_number(self, arrived: Frame | Missed) -> list[Placed]:
        if self._base is None:
            self._base = arrived.frame_id
        part, view = divmod(arrived.frame_id - self._base, self._views)
        self._count = view + 1
        if part > self._part:
            self._part = part
            self._entry = self._open(arrived, self._base + part * self._views)
        elif part < self._part or not self._see(when_ns(arrived)):
            return []  # answered already, by a missing view or its due time
        return self._give(arrived)

    # -- a real line ----------------------------------------------------------------------------------------------

    def _by_pause(self, arrived: Frame | Missed) -> list[Placed]:
        placed: list[Placed] = []
        at_ns, lost = when_ns(arrived), len(self._lost)
        self._lost.clear()
        if self._entry is not None and at_ns - self._last_ns <= self._gap_ns * (lost + 1):
            self._count += lost
            if lost:
                self._doubt = self._doubt or f"{lost} of its views were lost"
            if self._count >= self._views:  # one view more than a part has
                placed = self._begin(self._count - self._views, arrived)
                self._doubt = f"it came without a pause of {self._gap_ns / 1e6:g} ms after the part before"
        else:
            placed = self._end(lost, arrived)
        known = True
        if self._entry is None:
            self._entry = self._open(arrived)
        else:
            known = self._see(at_ns)
        if not arrived.timely:
            self._doubt = self._doubt or "its views lay unread, and the camera does not say when they were taken"
        self._count += 1
        self._last_ns = at_ns
        return placed + (self._give(arrived) if known else [])

    def _end(self, lost: int, arrived: Frame | Missed) -> list[Placed]:
        """A part begins. What was lost before it: the rest of the last part, whole parts, its own first views."""
        if self._entry is None or self._count >= self._views:
            return self._begin(lost, arrived)
        why = f"{self._count} of {self._views} views came before the next part"
        ended = Placed(self._entry, invalid(Reason.VIEW_MISSING, why))
        return [ended, *self._begin(max(0, lost - (self._views - self._count)), arrived)]

    def _begin(self, lost: int, arrived: Frame | Missed) -> list[Placed]:
        """The present part is over; so many views were lost behind it."""
        whole, self._count = divmod(lost, self._views)
        self._entry, self._doubt = None, f"{self._count} of its views were lost" if self._count else ""
        gone = invalid(Reason.VIEW_MISSING, "all of its views were lost")
        return [Placed(self._open(Missed(arrived.frame_id, when_ns(arrived))), gone) for _ in range(whole)]

    # -- both -----------------------------------------------------------------------------------------------------

    def _give(self, arrived: Frame | Missed) -> list[Placed]:
        if self._entry is None:
            return []
        what: Frame | Decision
        if isinstance(arrived, Missed):
            what = invalid(Reason.VIEW_MISSING, told(arrived))
        else:
            what = invalid(Reason.VIEW_MISSING, self._doubt) if self._doubt else arrived
        return [Placed(self._entry, what)]

    def _see(self, at_ns: int) -> bool:
        """False where the present part has been answered."""
        entry = None if self._entry is None else self._docket.see(self._entry.sequence, at_ns)
        self._entry = entry or self._entry
        return entry is not None

    def _open(self, arrived: Frame | Missed, first_id: int | None = None) -> Entry:
        return self._docket.open(
            part_id=arrived.part_id,
            frame_id=arrived.frame_id if first_id is None else first_id,
            taken_ns=when_ns(arrived),
            wall_ns=self._wall_ns(),
            truth=arrived.truth,
            views=self._views,
        )
