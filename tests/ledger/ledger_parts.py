"""Parts for the ledger's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from inspector.frame import Answer, Defect, Evidence, Hashes, Reason, Settled, Shape, Verdict
from inspector.ledger.book import Book
from inspector.ledger.schema import broken_links, reader

Make = Callable[..., Settled]
Open = Callable[..., Book]
Kill = Callable[[Book], None]


def make_part(
    epoch: int,
    sequence: int,
    verdict: Verdict = Verdict.PASS,
    *,
    reason: Reason | None = None,
    due_ns: int = 0,
    part_id: str | None = None,
    wall_ns: int = 1_700_000_000_000_000_000,
    truth: bool | None = None,
    evidence: Evidence | None = None,
    review: bool = False,
) -> Settled:
    """A settled part with one defect where it is FAIL."""
    defect = Defect(12.5, 7.0, 2.0, 100.0, 50.0, (10, 20, 7, 3), 0.8, 0.9, Shape.STRIP, zone="bar")
    answer = Answer(
        epoch=epoch,
        sequence=sequence,
        part_id=f"part-{sequence}" if part_id is None else part_id,
        frame_id=sequence,
        verdict=verdict,
        reason=(reason or Reason.LATE) if verdict is Verdict.INVALID else None,
        review=review,
        rules=("area 12.5 px over 10 px",) if verdict is Verdict.FAIL else (),
        defects=(defect,) if verdict is Verdict.FAIL else (),
        score=0.25,
        taken_ns=1_000_000 * sequence,
        due_ns=due_ns,
        settled_ns=1_000_000 * sequence + 20_000_000,
        wall_ns=wall_ns,
        hashes=Hashes("e" * 16, "c" * 16, "5" * 16),
        stages_us=(("prepare", 900), ("engine", 15000)),
    )
    return Settled(answer, evidence or Evidence(), truth)


def make_evidence(seed: int, size_px: int = 64) -> Evidence:
    """A noisy image (PNG cannot shrink it) and a mask with one square."""
    image = np.random.default_rng(seed).integers(0, 256, (size_px, size_px), np.uint8)
    mask = np.zeros((size_px, size_px), np.bool_)
    mask[5:9, 5:9] = True
    return Evidence(image, mask)


def rows_of(path: Path, table: str) -> list[tuple[object, ...]]:
    connection = reader(path)
    try:
        return list(connection.execute(f"SELECT * FROM {table}"))
    finally:
        connection.close()


def breaks(path: Path) -> list[tuple[int, str]]:
    connection = reader(path)
    try:
        return list(broken_links(connection))
    finally:
        connection.close()
