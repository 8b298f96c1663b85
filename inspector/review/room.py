"""From settings to the rooms of the review: what page and command line open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from inspector.clock import Clock
from inspector.config import Settings
from inspector.engine.bundle import load_bundle
from inspector.review.plan import Plan
from inspector.review.queue import Queue
from inspector.review.sources import Sources
from inspector.review.store import ReviewStore

FILE = "reviews.db"


@dataclass(frozen=True, slots=True)
class Room:
    """The review of one station, open for judging."""

    store: ReviewStore
    queue: Queue

    def close(self) -> None:
        self.store.close()


def open_room(settings: Settings, clock: Clock, path: Path | None = None) -> Room:
    """Open the store and an empty queue (``refresh`` fills it). ``path``: the file, default ``reviews.db`` in the
    station's state directory. Raises EngineError (no bundle), LedgerError.
    """
    store = ReviewStore(
        path or settings.station.state_dir / FILE, sources=read_sources(settings), plan=read_plan(settings), clock=clock
    )
    store.open()
    return Room(store, Queue(store, clock))


def read_sources(settings: Settings) -> Sources:
    """Where the station's answers and pictures lie."""
    state = settings.station.state_dir
    return Sources(settings.station.name, state / "ledger.db", state / "images")


def read_plan(settings: Settings) -> Plan:
    """The plan of ``[review]``, with the station's threshold and the image store's policy. Raises EngineError."""
    wanted, store = settings.review, settings.store
    return Plan(
        threshold=settings.decision.threshold or load_bundle(settings.engine.bundle).threshold,
        borderline=wanted.borderline,
        borderline_rate=wanted.borderline_rate,
        pass_rate=wanted.pass_rate,
        second_rate=wanted.second_rate,
        seed=wanted.seed,
        every_pass=1 if "PASS" in store.save else store.every_pass,
        pass_from_score=store.pass_from_score,
    )
