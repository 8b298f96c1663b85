"""A part seen in several views: one decision when all of them are there."""

from __future__ import annotations

from inspector.decision.judge import worst
from inspector.frame import Decision, Hashes, Reason, Verdict, invalid

_REMEMBERED = 64
"""Parts that are waited for; the views of older ones never came, and the docket has answered them."""


class Views:
    """Collects the decisions on the views of each part. One thread."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._seen: dict[int, list[Decision]] = {}
        self._by: dict[int, Hashes] = {}

    def add(self, sequence: int, decision: Decision, hashes: Hashes) -> Decision | None:
        """The decision on the whole part: the worst, INVALID at once; None while views are missing.

        ``hashes``: what this view was decided with. An answer names one recipe, so a part whose views were decided by
        two is INVALID."""
        if self._wanted == 1 or decision.verdict is Verdict.INVALID:
            self._forget(sequence)
            return decision
        if self._by.setdefault(sequence, hashes) != hashes:
            self._forget(sequence)
            return invalid(Reason.VIEW_MISSING, "a reload or an engine swap came between its views")
        views = self._seen.setdefault(sequence, [])
        views.append(decision)
        if len(views) < self._wanted:
            for stale in [each for each in self._seen if each < sequence - _REMEMBERED]:
                self._forget(stale)
            return None
        self._forget(sequence)
        return worst(views)

    def _forget(self, sequence: int) -> None:
        self._seen.pop(sequence, None)
        self._by.pop(sequence, None)
