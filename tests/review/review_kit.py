"""Stations and judgements for the review's tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from inspector.clock import PushedClock
from inspector.frame import Answer, Defect, Evidence, Hashes, Reason, Settled, Shape, Verdict
from inspector.ledger.book import Book
from inspector.ledger.retention import Retention
from inspector.ledger.store import Policy, Store
from inspector.review import masks
from inspector.review.plan import Plan
from inspector.review.records import Judgement, Opinion, PartKey, Review
from inspector.review.sources import Sources
from inspector.review.store import ReviewStore

Open = Callable[..., ReviewStore]
WALL_NS = 1_700_000_000_000_000_000
SIZE_PX = 48
HASHES = Hashes("e" * 16, "c" * 16, "5" * 16)


class Station:
    """A ledger and an image store with a few parts, as the line would leave them."""

    def __init__(self, state: Path, clock: PushedClock) -> None:
        self.state, self.reviews, self.clock = state, state / "reviews.db", clock
        self.sources = Sources("test", state / "ledger.db", state / "images")
        self.plan = Plan(threshold=0.65, every_pass=1, second_rate=0.0)
        self.book = Book(state / "ledger.db", clock=clock, ballast_bytes=0)
        self.book.open()
        policy = Policy(save=frozenset(Verdict), every_pass=1)
        self.store = Store(
            self.sources.images, policy=policy, quota_bytes=None, keep_days=9, clock=clock, min_free_bytes=0
        )
        self.store.open()
        kinds = [Verdict.FAIL] * 4 + [Verdict.INVALID] + [Verdict.PASS] * 7
        scores = [0.9] * 5 + [0.6] * 2 + [0.1] * 5
        self.add([part(n, kind, score) for n, (kind, score) in enumerate(zip(kinds, scores, strict=True), 1)])

    def add(self, parts: Sequence[Settled]) -> None:
        """Book parts and save their pictures."""
        self.book.write(list(parts))
        for each in parts:
            assert self.store.offer(each) or each.evidence.image is None
            self.store.step(0)

    def retire(self, keep_days: float) -> None:
        """Have old rows leave the ledger, as the daemon does."""
        gone = Retention(self.book, keep_days=keep_days, keep_copy=True, clock=self.clock)
        while gone.copy():
            pass
        for _ in range(100):
            self.clock.push(1_000_000_000)
            gone.remove()
        gone.close()

    def key(self, sequence: int) -> PartKey:
        return PartKey("test", 1, sequence)


def part(
    sequence: int,
    verdict: Verdict = Verdict.PASS,
    score: float = 0.1,
    *,
    wall_ns: int = WALL_NS,
    truth: bool | None = None,
    hashes: Hashes = HASHES,
    picture: bool = True,
    part_id: str | None = None,
) -> Settled:
    """A settled part with noise for a picture, and a square for a mask where it is FAIL."""
    failed = verdict is Verdict.FAIL
    box = Defect(120.0, 12.0, 10.0, 13.0, 10.0, (7, 5, 12, 10), 0.8, 0.9, Shape.BLOCK)
    answer = Answer(
        epoch=1,
        sequence=sequence,
        part_id=f"part-{sequence}" if part_id is None else part_id,
        frame_id=sequence,
        verdict=verdict,
        reason=Reason.NOT_LOCATED if verdict is Verdict.INVALID else None,
        review=False,
        rules=("one defect",) if failed else (),
        defects=(box,) if failed else (),
        score=score,
        taken_ns=sequence,
        due_ns=sequence + 9,
        settled_ns=sequence + 5,
        wall_ns=wall_ns,
        hashes=hashes,
    )
    if not picture:
        return Settled(answer, Evidence(), truth)
    image = np.random.default_rng(sequence).integers(0, 256, (SIZE_PX, SIZE_PX + 8), np.uint8)
    mask = np.zeros(image.shape, np.bool_)
    mask[5:15, 7:19] = failed
    return Settled(answer, Evidence(image, None if verdict is Verdict.INVALID else mask), truth)


def judge(store: ReviewStore, key: PartKey, opinion: Opinion, reviewer: str = "ann", **rest: object) -> Review:
    """What the page does: load the picture, hand in the judgement."""
    picture = store.picture(key)
    return store.add(Judgement(key, picture.sha256, reviewer, opinion, **rest))  # type: ignore[arg-type]


def brushed(*spots: tuple[int, int, int, int], width: int = SIZE_PX + 8, height: int = SIZE_PX) -> bytes:
    """A mask with rectangles (x, y, width, height)."""
    mask = np.zeros((height, width), np.bool_)
    for x, y, w, h in spots:
        mask[y : y + h, x : x + w] = True
    return masks.encode(mask)


def in_strata(review: Review, **changes: object) -> Review:
    """A review with some fields replaced, for pure functions."""
    return replace(review, **changes)  # type: ignore[arg-type]
