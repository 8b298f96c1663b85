"""What an audit reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    kind: str
    """damaged, schema, truncated, chain, gap, in flight, duplicate, receipt, override, unacknowledged, orphan, missing
    image, changed image."""
    text: str
    epoch: int = 0
    first: int = 0
    last: int = 0
    count: int = 1
    known: bool = False
    """The ledger accounts for it itself: it is reported, and the audit is still ok."""
