"""From settings to the rooms of the review: what page and command line open."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from inspector.clock import Clock
from inspector.config import Settings
from inspector.engine.bundle import load_bundle
from inspector.review.learn import Learned, learn
from inspector.review.plan import Plan
from inspector.review.population import Population, Scope
from inspector.review.queue import Queue
from inspector.review.records import Review
from inspector.review.sources import Sources
from inspector.review.standing import Promise, Standing, stand
from inspector.review.store import ReviewStore

FILE = "reviews.db"


@dataclass(frozen=True, slots=True)
class Room:
    """The review of one station, open for judging."""

    store: ReviewStore
    queue: Queue

    def close(self) -> None:
        self.store.close()


@dataclass(frozen=True, slots=True)
class Report:
    """What was learned, and of which parts it speaks."""

    scope: Scope
    reviews: int
    """Rows of parts in scope, those outside the plan too."""
    learned: Learned
    standing: Standing


def open_room(settings: Settings, clock: Clock, path: Path | None = None) -> Room:
    """Open the store and an empty queue (``refresh`` fills it). ``path``: the file, default ``path_of(settings)``.

    Raises EngineError (no bundle), LedgerError.
    """
    store = ReviewStore(
        path or path_of(settings), sources=read_sources(settings), plan=read_plan(settings), clock=clock
    )
    store.open()
    return Room(store, Queue(store, clock))


def read_promise(settings: Settings) -> Promise | None:
    """What the station promises: the configuration's wish, else the bundle's. Raises EngineError."""
    if settings.review.max_escape > 0.0:
        return Promise(settings.review.max_escape, settings.review.confidence)
    made = load_bundle(settings.engine.bundle).manifest["operating_point"].get("promise")
    if made is None:
        return None
    return Promise(made["max_escape"], made["confidence"], made["parts"], made["escapes"])


def report(
    settings: Settings, reviews: Iterable[Review], population: Population, *, everything: bool = False
) -> Report:
    """What the reviews say of the machine as it is now; ``everything``: of all that ever ran.

    ``population`` must be fresh (``refresh``). Raises EngineError (no bundle).
    """
    scope = population.scope(everything=everything)
    meant = population.reviews(scope, reviews)
    learned = learn(meant, population.parts(scope), settings.review.confidence)
    return Report(scope, len(meant), learned, stand(learned.cells, read_promise(settings)))


def path_of(settings: Settings) -> Path:
    """Where the reviews are: beside the page's own files, or in the station's state directory."""
    return (settings.page.state_dir or settings.station.state_dir) / FILE


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
