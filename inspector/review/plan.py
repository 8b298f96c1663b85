"""Which parts are to be judged, in which order, and with which probability. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from inspector.frame import Verdict
from inspector.review.records import Stratum

DAY_NS = 86_400_000_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of people. Chance comes from the part's number and the seed alone, so it can be done again."""

    threshold: float
    """The station's; a PASS is borderline from ``borderline`` times this on."""
    borderline: float = 0.8
    borderline_rate: float = 1.0
    pass_rate: float = 1.0
    second_rate: float = 0.1
    """Share of the parts that two people judge, so that they can be compared."""
    seed: int = 1
    every_pass: int = 100
    """The image store's policy, which decides of which PASS there is a picture at all."""
    pass_from_score: float = 0.5

    def stratum(self, sent: Verdict, score: float | None) -> Stratum:
        """Where a part belongs: by what the controller was told and the highest score (None: not finite)."""
        if sent is not Verdict.PASS:
            return Stratum.FAIL if sent is Verdict.FAIL else Stratum.INVALID
        return Stratum.BORDERLINE if score is not None and score >= self.borderline_from else Stratum.PASS

    @property
    def borderline_from(self) -> float:
        """The lowest score of a borderline PASS. Never below what the store keeps, so that the stratum is whole."""
        return max(self.borderline * self.threshold, self.pass_from_score)

    def probability(self, stratum: Stratum) -> float:
        """That a part of this stratum is asked for: the store keeps its picture, and the draw takes it."""
        kept = 1.0 / self.every_pass if self.every_pass else 0.0
        if stratum is Stratum.BORDERLINE:
            return self.borderline_rate * (1.0 if self.pass_from_score > 0.0 else kept)
        if stratum is Stratum.PASS:
            return self.pass_rate * kept
        return 0.0 if stratum is Stratum.PICKED else 1.0

    def wants(self, epoch: int, sequence: int, stratum: Stratum) -> bool:
        """Whether a part with a picture is asked for."""
        if stratum is Stratum.PICKED:
            return False
        if stratum in {Stratum.FAIL, Stratum.INVALID}:
            return True
        if not self.systematic(sequence, stratum):
            return False
        rate = self.borderline_rate if stratum is Stratum.BORDERLINE else self.pass_rate
        return self._draw("take", epoch, sequence) < rate

    def systematic(self, sequence: int, stratum: Stratum) -> bool:
        """Whether the store kept the picture by plan, and not for another reason (a review flag, a policy of old)."""
        if stratum is Stratum.BORDERLINE and self.pass_from_score > 0.0:
            return True
        return self.every_pass > 0 and sequence % self.every_pass == 0

    def wants_second(self, epoch: int, sequence: int) -> bool:
        """Whether a second person is to judge it in any case."""
        return self._draw("second", epoch, sequence) < self.second_rate

    def place(self, epoch: int, sequence: int, wall_ns: int) -> tuple[int, float]:
        """Sort key: the newest day first, chance within a day.

        The strata are mixed, so the place tells nothing; and what a day's reviewers got through is a random sample of
        that day in every stratum alike.
        """
        return -(wall_ns // DAY_NS), self._draw("place", epoch, sequence)

    def _draw(self, what: str, epoch: int, sequence: int) -> float:
        """0 <= x < 1, as good as random over parts, the same for ever."""
        digest = hashlib.sha256(f"{self.seed} {what} {epoch} {sequence}".encode()).digest()
        return int.from_bytes(digest[:7], "big") / (1 << 56)
