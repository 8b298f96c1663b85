"""What is to be judged next, and by whom. In memory; made from the image store's index, the ledger and the reviews.

A part leaves the queue when enough people have judged it: one; two where the plan wants a second opinion or the first
could not tell; three where two disagree. Nobody gets a part twice. A part that was handed to one
reviewer is not handed to another for a while, so that several work side by side.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from inspector.clock import Clock
from inspector.frame import Verdict
from inspector.ledger.pictures import STORED, read_index_after
from inspector.ledger.query import Reading
from inspector.review.records import Item, Opinion, PartKey, Review, Stratum
from inspector.review.store import ReviewStore, Where

_CLAIM_NS = 120_000_000_000
_OVERLAP = 4096
"""Pictures may be finished a little out of order: so many numbers are looked at again."""
_ANSWER = (
    "SELECT CASE WHEN o.link IS NULL THEN a.verdict ELSE 'INVALID' END, a.score, a.part_id, a.wall_ns FROM answers a "
    "LEFT JOIN overrides o ON o.epoch = a.epoch AND o.sequence = a.sequence WHERE a.epoch = ? AND a.sequence = ?"
)


@dataclass(slots=True)
class _Open:
    """A part that the plan asks for."""

    item: Item
    opinions: dict[str, Opinion] = field(default_factory=dict)
    """By reviewer, the latest."""
    claimed_by: str = ""
    claimed_until_ns: int = 0

    def needs(self, second: bool) -> int:
        """How many reviewers it takes."""
        said = list(self.opinions.values())
        if len(said) >= 2 and len(set(said)) > 1:
            return 3
        return 2 if second or Opinion.CANNOT_TELL in said else 1


class Queue:
    """The parts that wait for a person. Any thread."""

    def __init__(self, store: ReviewStore, clock: Clock) -> None:
        self._store, self._plan, self._sources, self._clock = store, store.plan, store.sources, clock
        self._lock = threading.Lock()
        self._parts: dict[PartKey, _Open] = {}
        self._order: list[tuple[int, float, PartKey]] = []
        self._seen: set[tuple[int, int]] = set()
        self._newest = (0, 0)
        self._link = 0

    def refresh(self) -> int:
        """Take in new pictures and reviews; returns how many parts wait. Costs by what is new. Raises LedgerError."""
        with self._lock:
            self._take_pictures()
            for review in self._store.reviews(Where(after_link=self._link)):
                self._note(review)
            return len(self._order)

    def next(self, reviewer: str) -> Item | None:
        """The next part for this reviewer, claimed for two minutes; None when nothing waits for them.

        The same part again until it is judged or the claim has passed. Does not refresh.
        """
        now_ns = self._clock.now_ns()
        with self._lock:
            for each in self._waiting(reviewer):
                if each.claimed_by in {"", reviewer} or each.claimed_until_ns <= now_ns:
                    each.claimed_by, each.claimed_until_ns = reviewer, now_ns + _CLAIM_NS
                    return each.item
        return None

    def skip(self, reviewer: str, key: PartKey) -> None:
        """Give a claimed part back, unjudged; it comes again after the claim's time."""
        with self._lock:
            each = self._parts.get(key)
            if each is not None and each.claimed_by == reviewer:
                each.claimed_by, each.claimed_until_ns = "-", self._clock.now_ns() + _CLAIM_NS

    def waiting(self, reviewer: str) -> int:
        """How many parts wait for this reviewer. Not told by stratum: that would tell the machine's answers."""
        with self._lock:
            return sum(1 for _ in self._waiting(reviewer))

    def by_stratum(self) -> dict[Stratum, int]:
        """How many parts wait at all; for the report, not for a reviewer at work."""
        with self._lock:
            found = Counter(self._parts[key].item.stratum for _, _, key in self._order)
        return {each: found[each] for each in Stratum if each is not Stratum.PICKED}

    # -- inside ----------------------------------------------------------------------------------------------------

    def _waiting(self, reviewer: str) -> Iterator[_Open]:
        for _, _, key in self._order:
            each = self._parts[key]
            if reviewer not in each.opinions:
                yield each

    def _take_pictures(self) -> None:
        epoch, sequence = self._newest
        found = read_index_after(self._sources.images, epoch, max(0, sequence - _OVERLAP))
        new = [each for each in found if each.state == STORED and (each.epoch, each.sequence) not in self._seen]
        if not new:
            return
        with Reading(self._sources.ledger) as connection:
            for each in new:
                row = connection.execute(_ANSWER, (each.epoch, each.sequence)).get
                if row is None:
                    continue  # stored, but not booked yet
                self._seen.add((each.epoch, each.sequence))
                self._newest = max(self._newest, (each.epoch, each.sequence))
                self._place(each.epoch, each.sequence, *row)

    def _place(self, epoch: int, sequence: int, sent: str, score: float | None, part_id: str, wall_ns: int) -> None:
        stratum = self._plan.stratum(Verdict(sent), score)
        if not self._plan.wants(epoch, sequence, stratum):
            return
        key = PartKey(self._sources.station, epoch, sequence)
        self._parts[key] = _Open(Item(key, part_id, wall_ns, stratum, self._plan.probability(stratum)))
        insort(self._order, self._rank(key, wall_ns))
        for review in self._store.reviews(Where(key=key)) if self._link else ():
            self._note(review)

    def _rank(self, key: PartKey, wall_ns: int) -> tuple[int, float, PartKey]:
        return (*self._plan.place(key.epoch, key.sequence, wall_ns), key)

    def _note(self, review: Review) -> None:
        self._link = max(self._link, review.link)
        each = self._parts.get(review.key)
        if each is None:
            return
        each.opinions[review.reviewer] = review.opinion
        each.claimed_by = ""
        if len(each.opinions) >= each.needs(self._plan.wants_second(review.key.epoch, review.key.sequence)):
            rank = self._rank(review.key, each.item.wall_ns)
            at = bisect_left(self._order, rank)
            if at < len(self._order) and self._order[at] == rank:
                del self._order[at]
