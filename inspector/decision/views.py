"""A part seen in several views: one decision when all of them are there."""

from __future__ import annotations

from inspector.decision.judge import worst
from inspector.frame import Decision, Verdict

_REMEMBERED = 64
"""Parts that are waited for; the views of older ones never came, and the docket has answered them."""


class Views:
    """Collects the decisions on the views of each part. One thread."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._seen: dict[int, list[Decision]] = {}

    def add(self, sequence: int, decision: Decision) -> Decision | None:
        """The decision on the whole part: the worst, INVALID at once; None while views are missing."""
        if self._wanted == 1 or decision.verdict is Verdict.INVALID:
            self._seen.pop(sequence, None)
            return decision
        views = self._seen.setdefault(sequence, [])
        views.append(decision)
        if len(views) < self._wanted:
            for stale in [each for each in self._seen if each < sequence - _REMEMBERED]:
                del self._seen[stale]
            return None
        return worst(self._seen.pop(sequence))
